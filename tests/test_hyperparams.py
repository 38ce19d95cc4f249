"""`hyperparams`: what the next step will use, whatever the transformation is inside of."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples
from flax.training.train_state import TrainState
from zoo import ZOO, Row

import gradtx
from gradtx import schedules
from gradtx._core.schedule import Schedule

TREE = samples.few()
FALLING = schedules.linear_schedule(1.0, 0.0, 10)


class record_number(gradtx.Leafwise):
    """Put the step's number into the update: what was really used."""

    value: Any = gradtx.number_field()

    def emit(self, s: Any, slots: Any, signal: Any) -> Any:
        return signal.write(jnp.zeros_like(signal.update) + s.value)


def steps(tx: Any, n: int, **extra: Any) -> tuple[Any, Any]:
    """The last updates, and the state before the step that gave them."""
    state, updates, before = tx.init(TREE), None, None
    update = jax.jit(tx.update)
    for i in range(n):
        before = state
        updates, state = update(samples.grads_like(TREE, i), state, TREE, **extra)
    return updates, before


WRAPPERS = {
    "alone": lambda tx: tx,
    "chain": lambda tx: gradtx.chain(gradtx.clip(1.0), tx),
    "scope": lambda tx: gradtx.chain(gradtx.adam(0.3), gradtx.scope(tx)),
    "group": lambda tx: gradtx.by_path({"**/bias": gradtx.adam(0.5), "**": tx}),
    "stored": lambda tx: gradtx.with_storage(gradtx.chain(gradtx.trace(0.9), gradtx.scope(tx)), trace="bfloat16"),
    "accumulate": lambda tx: gradtx.accumulate_gradients(tx, 2),
    "skip in a chain": lambda tx: gradtx.chain(gradtx.clip(1.0), gradtx.skip_nonfinite(tx)),
    "accumulate around skip": lambda tx: gradtx.accumulate_gradients(gradtx.skip_nonfinite(tx), 3),
    "restart": lambda tx: gradtx.restart_every(tx, 2),
    "loss scale": lambda tx: gradtx.dynamic_loss_scale(tx),
    "inject": lambda tx: gradtx.inject_hyperparams(tx),
    "inject inside": lambda tx: gradtx.accumulate_gradients(gradtx.inject_hyperparams(tx), 2),
    "named": lambda tx: gradtx.chain(("mine", tx), gradtx.identity()),
    "foreign stage": lambda tx: gradtx.chain(optax.clip(1.0), tx),
    "optax.chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "optax.MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "optax.masked": lambda tx: optax.masked(tx, lambda t: jax.tree.map(lambda x: x.ndim > 0, t)),
    "optax.apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "optax.partition": lambda tx: optax.partition({"a": tx, "b": optax.sgd(0.1)}, jax.tree.map(lambda _: "a", TREE)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_a_schedule_as_the_next_step_uses_it(wrap: Any):
    tx = wrap(record_number(FALLING))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        updates, before = steps(tx, 6)
    expected = np.asarray(updates["block"].matrix)[0, 0]
    got = gradtx.hyperparams(tx, before)["value"]
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=2e-7)  # compiled or not, the last digit may differ


@pytest.mark.parametrize("wrap", [v for k, v in WRAPPERS.items() if "optax" not in k])
def test_the_same_inside_jit(wrap: Any):
    tx = wrap(gradtx.adamw(FALLING, b1=schedules.linear_schedule(0.5, 0.9, 7)))
    if isinstance(tx, gradtx.Transform):
        _, state = steps(tx, 4)
        jitted = jax.jit(gradtx.hyperparams)(tx, state)
        eager = gradtx.hyperparams(tx, state)
        assert set(jitted) == set(eager)
        for name, value in eager.items():
            np.testing.assert_allclose(jitted[name], value, rtol=1e-6)


@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_every_number_of_every_row(row: Row):
    tx = row.build()
    found = gradtx.hyperparams(tx, tx.init(samples.params()))
    table = gradtx._core.addresses.addresses(tx)
    for name, value in found.items():
        assert isinstance(value, float) == (not isinstance(table[name].value, Schedule)), name
        if isinstance(value, float):
            assert tx.replace({name: value}) == tx
    numbers = [x for x in table.values() if x.numeric and not x.in_schedule and x.value is not None]
    assert len(found) == len(numbers)


def test_numbers_as_they_were_written():
    tx = gradtx.adamw(1e-3, weight_decay=0.1)
    assert gradtx.hyperparams(tx, tx.init(TREE)) == {
        "b1": 0.9,
        "b2": 0.999,
        "initial": 0.0,
        "eps": 1e-8,
        "eps_root": 0.0,
        "weight_decay": 0.1,
        "learning_rate": 1e-3,
    }


def test_names_that_repeat_are_addresses():
    tx = gradtx.by_path({"**/bias": gradtx.sgd(0.1), "**": gradtx.chain(("head", gradtx.sgd(FALLING)))})
    found = gradtx.hyperparams(tx, tx.init(TREE))
    assert found["**/bias.learning_rate"] == 0.1
    assert float(found["head.learning_rate"]) == 1.0


def test_what_is_set_in_the_state_is_what_comes():
    tx = gradtx.inject_hyperparams(gradtx.adamw(1e-3))
    state = tx.init(TREE)
    state.hyperparams["learning_rate"] = jnp.float32(0.25)
    assert float(gradtx.hyperparams(tx, state)["learning_rate"]) == 0.25
    assert float(gradtx.hyperparams(tx, state)["b1"]) == np.float32(0.9)


def test_states_of_frameworks():
    tx = gradtx.adamw(FALLING)
    state = TrainState.create(apply_fn=None, params=TREE, tx=tx)
    for _ in range(3):
        state = state.apply_gradients(grads=TREE)
    assert float(gradtx.hyperparams(tx, state)["learning_rate"]) == pytest.approx(0.7)
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    assert float(gradtx.hyperparams(tx, optimizer.opt_state)["learning_rate"]) == pytest.approx(0.9)


def test_optax_injection_around_ours():
    tx = optax.inject_hyperparams(gradtx.sgd, hyperparam_dtype=jnp.float32)(0.1)
    assert float(gradtx.hyperparams(tx, tx.init(TREE))["learning_rate"]) == np.float32(0.1)


def test_a_population():
    rates = jnp.asarray([0.1, 0.2])
    population = jax.vmap(lambda r: gradtx.sgd(r))(rates)
    states = jax.vmap(lambda tx: tx.init(TREE))(population)
    np.testing.assert_array_equal(gradtx.hyperparams(population, states)["learning_rate"], rates)


def test_a_thousand_steps_compile_once():
    """A schedule, a replaced rate, numbers and metrics read in every step: no second trace."""
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda tx, p, s, g: (tx.update(g, s, p), gradtx.hyperparams(tx, s)), n=1))
    params = {"w": jnp.ones(3)}
    tx = gradtx.chain(gradtx.gradient_norm(), gradtx.adamw(FALLING, weight_decay=0.1), gradtx.scale(1.0))
    state = tx.init(params)
    for i in range(1000):
        if i % 10 == 0:
            tx = tx.replace(step_size=1 - i / 1000)
        (_, state), numbers = traced(tx, params, state, params)
        assert float(numbers["step_size"]) == pytest.approx(1 - i // 10 * 10 / 1000)
        assert float(numbers["learning_rate"]) == pytest.approx(max(1 - i / 10, 0.0), abs=1e-6)
        assert float(gradtx.metrics(state)["gradient_norm"]) == pytest.approx(3**0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gradtx.hyperparams(gradtx.sgd(0.1), gradtx.adam(0.1).init(TREE)), ValueError, "found 0.*of another"),
        (
            lambda: gradtx.hyperparams(gradtx.sgd(0.1), (gradtx.sgd(0.1).init(TREE), gradtx.sgd(0.1).init(TREE))),
            ValueError,
            "found 2; give the one",
        ),
        (lambda: gradtx.hyperparams(gradtx.adam, ()), TypeError, "expected a transformation.*call it first"),
        (lambda: gradtx.hyperparams(optax.sgd(0.1), optax.sgd(0.1).init(TREE)), ValueError, "do not show theirs"),
    ],
)
def test_what_cannot_be_read(call: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        call()
