"""The language model's example: killed in the middle and resumed, it ends where the whole run ends."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "train_lm.py"
SIZES = {"steps": 8, "width": 32, "layers": 1, "length": 16, "batch": 8, "save-every": 2}
SMALL = [word for name, size in SIZES.items() for word in (f"--{name}", str(size))] + ["--storage", "half"]


def main(*arguments: object):
    spec = importlib.util.spec_from_file_location("train_lm", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return module.main([*SMALL, *map(str, arguments)])


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "TPU_", "JAX_"))}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # as here: the same program, and the same bits
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    folder = tmp_path / "run"
    many = [sys.executable, str(EXAMPLE), *SMALL, "--devices", "8", "--checkpoints", str(folder)]
    with subprocess.Popen(many, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline and not (folder / "2").exists():
                time.sleep(0.001)
        finally:
            process.send_signal(signal.SIGKILL)
    assert not (folder / "8").exists()
    expected = main("--out", tmp_path)
    with pytest.raises(SystemExit, match="go on with --resume, or give another folder"):
        main("--checkpoints", folder, "--out", tmp_path)
    resumed = main("--checkpoints", folder, "--resume", "--out", tmp_path)
    for got, want in zip(jax.tree.leaves(resumed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, want)
    assert (tmp_path / "train_lm.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"(?s)the state is not one of .*other: stages/\d+/"):
        main("--checkpoints", folder, "--resume", "--out", tmp_path, "--width", "64")
