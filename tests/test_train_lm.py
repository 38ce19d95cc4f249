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
    return module.main([*SMALL, *map(str, arguments)])


def test_killed_and_resumed(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "TPU_", "JAX_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    folder = tmp_path / "run"
    many = [sys.executable, str(EXAMPLE), *SMALL, "--devices", "8", "--checkpoints", str(folder)]
    process = subprocess.Popen(many, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    expected = main("--out", tmp_path)  # meanwhile
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not any(folder.glob("[0-9]*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "8").exists()
    with pytest.raises(SystemExit, match="go on with --resume, or give another folder"):
        main("--checkpoints", folder, "--out", tmp_path)
    resumed = main("--checkpoints", folder, "--resume", "--out", tmp_path)
    for got, want in zip(jax.tree.leaves(resumed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, want)
    assert (tmp_path / "train_lm.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="the state is not one of .*other: "):
        main("--checkpoints", folder, "--resume", "--out", tmp_path, "--width", "64")
