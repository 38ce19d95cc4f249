"""Deterministic facts about the programs a step becomes: what is traced, compiled, moved and donated."""

from __future__ import annotations

import json
import pathlib
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from compilers import on_gpus, on_tpus, printed
from zoo import OPTIMIZERS

import gradtx

ROOT = pathlib.Path(__file__).parent.parent
CHAINS = {
    "adamw": lambda: gradtx.adamw(1e-3),
    "clip_adamw": lambda: gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-3)),
    "adamw_clip": lambda: gradtx.chain(gradtx.adamw(1e-3), gradtx.clip_by_global_norm(1.0)),
    "scheduled": lambda: gradtx.adamw(gradtx.schedules.linear_schedule(1e-3, 1e-4, 10)),
}


class Compilations:
    """Counts what JAX compiles while it is entered."""

    EVENT: ClassVar[str] = "/jax/core/compile/backend_compile_duration"

    def __enter__(self) -> Compilations:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def _listen(self, event: str, *args: Any, **kwargs: Any) -> None:
        self.count += event == self.EVENT

    def __exit__(self, *exc: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


def many_leaves(n: int) -> dict[str, jax.Array]:
    """Leaves of six types: three shapes in two dtypes."""
    shapes, dtypes = [(3,), (4, 3), (2, 2, 2)], [jnp.float32, jnp.bfloat16]
    return {f"leaf_{i:04}": constant(shapes[i % 3], 0.5, dtypes[i // 3 % 2]) for i in range(n)}


def full_step(tx: Any, params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
    updates, state = tx.update(grads, state, params)
    return gradtx.apply_updates(params, updates), state


def constant(shape: Any, value: float = 0.5, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.full(shape, value, dtype)  # jnp.full without a dtype is weakly typed, and an updated parameter is not


def nbytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


# ---- tracing ----


def leaf_calls(jaxpr: Any) -> list[Any]:
    return [e for e in jaxpr.eqns if e.params.get("name") == "leaf_program"]


@pytest.mark.parametrize("name", CHAINS)
def test_one_leaf_program_for_each_type_of_leaf(name):
    """A thousand leaves of six types are a thousand calls of six programs, in a small number of equations."""
    tx, params = CHAINS[name](), many_leaves(1000)
    state = tx.init(params)
    traced = jax.jit(full_step).trace(tx, params, state, params)
    calls = leaf_calls(traced.jaxpr)
    assert len(calls) == 1000
    assert len({id(e.params["jaxpr"]) for e in calls}) == 6
    # The rest: the step's scalars, the sum, and the program of a treewise stage. None of it grows with the leaves.
    assert len(traced.jaxpr.eqns) - 1000 <= 4


class counted(gradtx.Leafwise):
    """A stage that counts how often it is traced."""

    traces: ClassVar[list[tuple[int, ...]]] = []

    def emit(self, s: SimpleNamespace, slots: Any, signal: gradtx.Signal) -> gradtx.Signal:
        self.traces.append(signal.update.shape)
        return signal.write(signal.update * 2)


def test_a_leaf_program_is_traced_once_for_each_type_of_leaf():
    params = many_leaves(300)
    tx = gradtx.chain(gradtx.adam(1e-3), counted())
    state = tx.init(params)
    jax.clear_caches()
    counted.traces.clear()
    jax.jit(full_step).trace(tx, params, state, params)
    assert len(counted.traces) == 6
    # Another outer function, other numbers, and an eager update find the same programs.
    other = gradtx.chain(gradtx.adam(3e-4, b1=0.8, eps=1e-6), counted())
    jax.jit(lambda p, s, g: full_step(other, p, s, g)).trace(params, state, params)
    other.update(params, state, params)
    assert len(counted.traces) == 6


def test_leaves_that_are_treated_differently_have_programs_of_their_own():
    """A mask doubles the types at most: it is not one program for each leaf."""
    params = many_leaves(60)
    tx = gradtx.adamw(1e-3, weight_decay=0.1, mask=lambda path, leaf: int(path[-4:]) < 30)
    traced = jax.jit(full_step).trace(tx, params, tx.init(params), params)
    calls = leaf_calls(traced.jaxpr)
    assert len(calls) == 60
    assert len({id(e.params["jaxpr"]) for e in calls}) == 6 * 2


def test_equations_grow_by_one_small_call_a_leaf():
    """One call at top level for each leaf more, and one addition inside the sum for a float32 leaf."""

    def sizes(n: int) -> tuple[int, int]:
        params = {f"w_{i}": jnp.ones(3) for i in range(n)}
        tx = gradtx.adamw(1e-3)
        jaxpr = jax.jit(full_step).trace(tx, params, tx.init(params), params).jaxpr
        (add,) = [e for e in jaxpr.eqns if e.params.get("name") == "_add"]
        return len(jaxpr.eqns), len(add.params["jaxpr"].eqns)

    (small, small_add), (large, large_add) = sizes(10), sizes(110)
    assert large - small == 100
    assert large_add - small_add == 100


# ---- compiling ----

PYTHON_NUMBERS, NUMPY_NUMBERS = [3, 3e-4], [np.float32(3e-4), np.float64(2e-4), np.array(4e-4)]
NUMBERS = [*PYTHON_NUMBERS, *NUMPY_NUMBERS, jnp.float32(3e-4), jnp.asarray(5e-4), jnp.int32(2)]


@pytest.mark.parametrize("name", CHAINS)
def test_an_eager_update_compiles_once(name):
    tx = CHAINS[name]()
    params = {"a": constant((7, 5)), "b": {"c": constant(5), "d": constant((7, 5), 0.25)}}
    grads = jax.tree.map(lambda p: p * 0.1, params)
    _, state = tx.update(grads, tx.init(params), params)
    with Compilations() as after:
        for _ in range(3):
            updates, state = tx.update(grads, state, params)
        changes = {"b1": 0.8, "b2": 0.99, "eps": 1e-6, "weight_decay": 0.1}
        if name != "scheduled":
            for number in NUMBERS:
                updates, state = tx.replace(learning_rate=number).update(grads, state, params)
        for change in changes.items():
            updates, state = tx.replace(dict([change])).update(grads, state, params)
        jax.block_until_ready((updates, state))
    assert after.count == 0


def test_the_eager_update_that_compiles_is_seen_by_the_counter():
    """The control of the tests around: a shape that was not seen before compiles."""
    params = {"w": jnp.ones((11, 13))}
    tx = gradtx.adamw(1e-3)
    state = tx.init(params)
    with Compilations() as first:
        tx.update(params, state, params)
    assert first.count > 0


def test_a_jitted_step_takes_new_hyperparameters_without_a_second_trace():
    traces = []

    @jax.jit
    def step(tx: Any, params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        traces.append(1)
        return full_step(tx, params, state, grads)

    params = {"w": constant((6, 7)), "b": constant(7)}
    tx = gradtx.adamw(1e-3)
    grads = jax.tree.map(lambda p: p * 0.1, params)
    params, state = step(tx, params, tx.init(params), grads)
    grads = jax.tree.map(lambda g: g * -3, grads)  # the averages of a constant do not depend on their decay
    plain, _ = step(tx, params, state, grads)
    with Compilations() as after:
        for number in NUMBERS:
            for other in (tx.replace(learning_rate=number), gradtx.adamw(number)):
                changed, _ = step(other, params, state, grads)
                assert not np.array_equal(changed["w"], plain["w"])
        for change in ({"b1": 0.5}, {"b2": 0.9}, {"eps": 1e-2}, {"eps_root": 1e-3}, {"weight_decay": 0.3}):
            changed, _ = step(tx.replace(change), params, state, grads)
            assert not np.array_equal(changed["w"], plain["w"])
    assert len(traces) == 1
    assert after.count == 0


def test_gradtx_step_compiles_once():
    params = {"w": constant((5, 9))}
    grads = jax.tree.map(lambda p: p * 0.1, params)
    tx = gradtx.adamw(1e-3)
    params, state = gradtx.step(tx, params, tx.init(params), grads)
    with Compilations() as after:
        for number in NUMBERS:
            params, state = gradtx.step(tx.replace(learning_rate=number), params, state, grads)
        params, state = gradtx.step(tx.replace(b1=0.8, eps=1e-6), params, state, grads)
    assert after.count == 0


# ---- memory ----


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("row", OPTIMIZERS, ids=lambda row: row.name)
def test_donation_reuses_every_buffer(row, dtype):
    """The new parameters and state are written over the old ones, all of them."""
    tx = row.build()
    params = {"w": constant((256, 128), 0.5, dtype), "b": constant(128, 0.5, dtype)}
    state = tx.init(params)
    compiled = samples.cheap_jit(full_step, donate_argnums=(1, 2)).lower(tx, params, state, params).compile()
    sizes = compiled.memory_analysis()
    assert sizes.alias_size_in_bytes >= nbytes((params, state))
    # What is not aliased of the results is bookkeeping: a table of pointers to them.
    results = len(jax.tree.leaves((params, state)))
    assert sizes.output_size_in_bytes - nbytes((params, state)) <= 16 * results


@pytest.mark.parametrize(("name", "copies"), [("adamw", 0), ("scheduled", 0), ("clip_adamw", 0)])
def test_a_step_holds_no_needless_copy(name, copies):
    """On XLA:CPU a step of 40 equal leaves has temporaries for less than three of them."""
    tx = CHAINS[name]()
    params = {f"w_{i}": constant((64, 64)) for i in range(40)}
    state = tx.init(params)
    compiled = jax.jit(full_step, donate_argnums=(1, 2)).lower(tx, params, state, params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < (copies + 3 / 40) * nbytes(params)


def compiled_for(target: str, *arguments: str) -> list[dict[str, Any]]:
    """The rows of benchmarks.hbm, from a process in which XLA simulates no devices."""
    lines = printed("-m", "benchmarks.hbm", "--quick", "--json", "--target", target, *arguments).splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    for row in rows:
        assert row["bytes_per_parameter"] == pytest.approx(row["ideal"], abs=0.05), row
        assert row["temp_bytes"] < 1 << 20, row  # scalars; the leaf has a quarter of a gigabyte or more
    return rows


targets = pytest.mark.parametrize("target", [pytest.param("v5e", marks=on_tpus), pytest.param("cuda", marks=on_gpus)])


@targets
def test_state_in_fewer_bytes_moves_the_ideal_number_of_bytes(target):
    """20 bytes a parameter with both moments in 4, 16 in 2, of any shape and layout, behind clipping, schedules, groups; 14 and
    10 with parameters and gradients in bfloat16."""
    rows = compiled_for(target, "--table", "storage", "--libraries", "gradtx")
    assert sorted({row["ideal"] for row in rows}) == [10, 14, 16, 20, 24]
    assert len(rows) == 14


@targets
def test_a_step_moves_the_ideal_number_of_bytes(target):
    """28 bytes a parameter for float32 AdamW, 32 behind a global norm, and no temporary of the size of a leaf."""
    rows = compiled_for(target)
    assert sorted({row["ideal"] for row in rows}) == [22, 24, 28, 32]
    assert len(rows) == 8  # each closed over, and as an argument


ROUNDED = """
import sys
import jax.numpy as jnp
import gradtx
from benchmarks import hbm

target = sys.argv[1]
for dtype in (None, "bfloat16", "float16"):
    tx = gradtx.ema(0.9, accumulator_dtype=dtype)
    compiled = hbm.compile_step(tx, jnp.float32, target, hbm.device_of(target), shape=(256, 512))
    print("reduce-precision" in compiled.as_text())
"""


@targets
def test_a_16_bit_slot_is_rounded_before_the_step_uses_it(target):
    """Accelerators drop a conversion to 16 bits and back; what they are told to round, they round."""
    assert printed("-c", ROUNDED, target).split() == ["False", "True", "True"]


@targets
def test_rounded_parameters_cost_what_they_keep(target):
    """Parameters, residuals and low bits are written by the fusion that writes the moments."""
    assert sorted(row["ideal"] for row in compiled_for(target, "--table", "rounding")) == [22, 24, 26, 26, 30]


@on_tpus
def test_norms_of_what_a_step_reads_anyway_move_no_bytes_on_a_tpu():
    """Gradient and parameter are measured by the fusion that reads them for the update."""
    assert [row["ideal"] for row in compiled_for("v5e", "--table", "probes")] == [28, 28]
