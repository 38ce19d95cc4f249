"""Compilers for devices that are not there: what needs them, and what processes that use them print."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from gradtx._rehearsal import gpus

ROOT = pathlib.Path(__file__).parent.parent
on_tpus = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed; CI installs it"
)
on_gpus = pytest.mark.skipif(
    not any(map(gpus.is_installed, gpus.PLUGINS)), reason="JAX's CUDA plugin is not installed; CI installs it"
)


def printed(*arguments: str, platform: str | None = "cpu") -> str:
    """What Python prints in a process of its own, in which XLA simulates no devices.

    Args:
        arguments: of the interpreter.
        platform: JAX's; None: nobody chose one.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment |= {} if platform is None else {"JAX_PLATFORMS": platform}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
