"""Several processes that train together, over loopback: they get what one process gets."""

from __future__ import annotations

import os
import pathlib
import pickle
import socket
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import process
import pytest

ROOT = pathlib.Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(processes: int, folder: pathlib.Path) -> list[Any]:
    """What each of several processes finds."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_FLAGS", "TPU_", "JAX_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    coordinator, script = f"127.0.0.1:{free_port()}", pathlib.Path(process.__file__)
    started = [
        subprocess.Popen(
            [sys.executable, str(script), coordinator, str(processes), str(i), str(folder / f"{i}.pickle")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    try:
        for one in started:
            _, errors = one.communicate(timeout=180)
            assert one.returncode == 0, errors
    finally:
        for one in started:
            one.kill()
    return [pickle.loads((folder / f"{i}.pickle").read_bytes()) for i in range(processes)]


def is_parts(x: Any) -> bool:
    return isinstance(x, list)


def gathered(tree: Any) -> Any:
    """Parts put together; each of them is there, and what several processes have is the same."""

    def one(parts: list[tuple[Any, np.ndarray]]) -> np.ndarray:
        ndim = parts[0][1].ndim
        ends = [
            max(stop if stop is not None else part.shape[d] for index, part in parts for _, stop in index[d : d + 1])
            for d in range(ndim)
        ]
        out, seen = np.zeros(ends, parts[0][1].dtype), np.zeros(ends, bool)
        for index, part in parts:
            where = tuple(slice(*ends) for ends in index)
            if seen[where].any():
                np.testing.assert_array_equal(out[where], part)
            out[where], seen[where] = part, True
        assert seen.all()
        return out

    return jax.tree.map(one, tree, is_leaf=is_parts)


@pytest.fixture(scope="module")
def alone() -> Any:
    return gathered(process.train(jax.devices()[: process.DEVICES]))


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_as_one(processes, alone, tmp_path):
    """The same devices in one process, in two of two, in four of one. They add in another order, and no more."""
    found = run(processes, tmp_path)
    together = gathered(jax.tree.map(lambda *parts: [x for part in parts for x in part], *found, is_leaf=is_parts))
    assert jax.tree.structure(together) == jax.tree.structure(alone)
    for (path, got), want in zip(jax.tree.leaves_with_path(together), jax.tree.leaves(alone)):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-7, err_msg=jax.tree_util.keystr(path))
