"""Strict mode for every test: no implicit promotion of dtypes or ranks, warnings are errors (pyproject.toml)."""

import itertools
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight simulated devices, for the sharding contracts.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("gradtx", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gradtx"))


@pytest.fixture
def x64():
    """Enable float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile without optimizations: for modules that ask neither for last places nor for programs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


_finished = itertools.count(1)


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forget compiled programs in time: XLA maps memory for each, and Linux kills a process with more than 65,530 maps."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if next(_finished) % 20 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def keywords_of_the_row(request, monkeypatch):
    """What the row under test needs at every call of `update`, where the test does not give it."""
    import zoo

    from gradtx._core import run

    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    row = params.get("row") or zoo.BY_NAME.get(str(params.get("name")))
    if isinstance(row, zoo.Row) and row.keywords:
        plain = run.update

        def update(tx, updates, state, params, extra):
            return plain(tx, updates, state, params, {**row.keywords, **extra})

        monkeypatch.setattr(run, "update", update)
