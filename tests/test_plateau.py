"""`reduce_on_plateau`: Optax's decisions, without a second trace, in bf16 too, also from the state."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

PARAMS = {"w": jnp.ones(3), "b": jnp.ones(())}


def scales(tx: Any, values: Any, params: Any = PARAMS) -> np.ndarray:
    """What comes out of updates of one, value after value."""
    state, out = tx.init(params), []
    update = jax.jit(lambda s, v: tx.update(params, s, params, value=v))
    for value in values:
        updates, state = update(state, value)
        out.append(float(updates["w"][0]))
    return np.asarray(out)


def losses(seed: int, n: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.exp(-np.minimum(np.arange(n), 25) / 10) + 0.3 * rng.random(n)).astype(np.float32)


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": 3},
        {"patience": 2, "factor": 0.5, "cooldown": 4},
        {"patience": 1, "factor": 0.7, "rtol": 0.2},
        {"patience": 1, "factor": 0.7, "rtol": 0.0, "atol": 0.1},
        {"patience": 2, "factor": 0.5, "accumulation_size": 3},
        {"patience": 1, "factor": 0.5, "min_scale": 0.05},
        {"patience": 1, "factor": 0.5, "cooldown": 1, "accumulation_size": 2},
    ],
    ids=str,
)
def test_the_decisions_are_optax_s(arguments: dict[str, Any]):
    ours, theirs = gradtx.reduce_on_plateau(**arguments), optax.contrib.reduce_on_plateau(**arguments)
    seen = 0
    for seed in range(3):
        found = scales(ours, losses(seed))
        with jax.numpy_dtype_promotion("standard"):
            expected = scales(theirs, losses(seed))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        seen += len(np.unique(found))
    assert seen > 5  # there were reductions


def test_from_the_state_without_a_second_trace_in_bfloat16():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    tx = gradtx.inject_hyperparams(gradtx.chain(gradtx.sgd(0.1), gradtx.reduce_on_plateau(0.5, 2)))
    state = tx.init(params)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def update(state: Any, value: Any) -> Any:
        return tx.update(params, state, params, value=value)

    sizes = []
    for value in [1.0, 1.0, 1.0, 1.0, 1.0]:
        updates, state = update(state, jnp.float32(value))
        sizes.append(float(updates["w"][0]))
    np.testing.assert_allclose(sizes, [-0.1, -0.1, -0.05, -0.05, -0.025], rtol=1e-2)
    state.hyperparams["learning_rate"] = jnp.float32(0.4)
    state.hyperparams["patience"] = jnp.float32(1.0)
    updates, state = update(state, jnp.float32(1.0))
    np.testing.assert_allclose(float(updates["w"][0]), -0.4 / 8, rtol=1e-2)
    assert {x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)} == {
        jnp.dtype(jnp.float32)
    }


def test_an_improvement_too_small_for_bfloat16_counts():
    values = 1 - 1e-3 * np.arange(12, dtype=np.float32)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    tx = gradtx.reduce_on_plateau(0.5, 3)
    np.testing.assert_array_equal(scales(tx, values, params), 1.0)
    with jax.numpy_dtype_promotion("standard"):
        assert scales(optax.contrib.reduce_on_plateau(0.5, 3), values, params)[-1] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 1.0}, r"factor=...\): expected a number in \(0, 1\), got 1"),
        ({"rtol": 2.0}, r"rtol=...\): expected a number in \[0, 1\]"),
        ({"rtol": 0.0}, "at least one of them"),
        ({"accumulation_size": 0}, ">= 1, got 0"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        gradtx.reduce_on_plateau(**arguments)


def test_the_value_is_needed():
    tx = gradtx.reduce_on_plateau()
    with pytest.raises(TypeError, match="value="):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="to be a scalar"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=jnp.ones(2))


# ---- a value that a user sets is not overwritten unnoticed ----


def test_numbers_in_the_state_are_not_replaced_outside_it():
    inside = gradtx.accumulate_gradients(gradtx.inject_hyperparams(gradtx.sgd(0.1)), 2)
    for tx in (inside, gradtx.chain(gradtx.clip(1.0), inside), gradtx.inject_hyperparams(gradtx.sgd(0.1))):
        with pytest.raises(TypeError, match="keeps its numbers in the state"):
            tx.replace(learning_rate=0.5)
    assert gradtx.chain(gradtx.clip(1.0), inside).replace(max_delta=2.0).stages[0] == gradtx.clip(2.0)
