"""Strict mode for every test: no implicit promotion of dtypes or ranks, warnings are errors (pyproject.toml); and what keeps them quick."""

import itertools
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight simulated devices, for the sharding contracts.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import hypothesis
import jax
import pytest
import samples
import zoo

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


@pytest.fixture
def quick_compilation():
    """For modules that ask neither for last places nor for programs: compiled without optimizations (see below)."""


def compiles_quickly(item):
    return "quick_compilation" in item.fixturenames


_quick = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Compile as the module wants; what asks for the real thing meets no program that was compiled without optimizations."""
    global _quick
    wanted = compiles_quickly(item)
    if wanted != _quick:
        _quick = wanted
        samples.compile_quickly(wanted)
        if not wanted:
            jax.clear_caches()


def row_of(item):
    """The row of the zoo that a test is about, or None."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    row = params.get("row") or zoo.BY_NAME.get(str(params.get("name")))
    return row if isinstance(row, zoo.Row) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Modules that compile quickly first, and all tests of a row in one process, one after the other: they share its programs.

    What is about no row stays together by module. Rows come last, small portions that keep all processes busy to the end.
    """
    places = {row.name: place for place, row in enumerate(zoo.ZOO)}

    def place(item):
        row, quick = row_of(item), compiles_quickly(item)
        return not quick, row is not None, places[row.name] if row else 0

    for item in items:
        row, quick = row_of(item), compiles_quickly(item)
        group = (row.name if quick else f"{row.name}_as_usual") if row else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=place)


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
    from gradtx._core import run

    row = row_of(request.node)
    if row and row.keywords:
        plain = run.update

        def update(tx, updates, state, params, extra):
            return plain(tx, updates, state, params, {**row.keywords, **extra})

        monkeypatch.setattr(run, "update", update)
