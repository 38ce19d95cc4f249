"""Wrappers: what they skip, gather, scale and average."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

TREE = samples.params()


def micro_batches(k: int, dtype: Any = jnp.float32) -> list[Any]:
    return [samples.grads_like(TREE, seed, dtype=dtype) for seed in range(k)]


def mean(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.mean(jnp.stack([y.astype(jnp.float32) for y in x]), 0), *trees)


def after(tx: Any, grads: list[Any], state: Any = None, params: Any = TREE) -> tuple[Any, Any]:
    state = tx.init(params) if state is None else state
    for g in grads:
        params, state = gradtx.step(tx, params, state, g, donate=False)
    return params, state


# ---- accumulation ----


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
def test_micro_batches_are_one_batch(dtype: Any):
    grads = micro_batches(8, dtype)
    tx = gradtx.adamw(0.1, weight_decay=0.1)
    params, state = after(gradtx.accumulate_gradients(tx, 4), grads)
    expected, plain = after(tx, [mean(grads[:4]), mean(grads[4:])])
    chex.assert_trees_all_close(params, expected, rtol=1e-6, atol=1e-7)
    assert int(state.inner.count) == int(plain.count) == 2
    assert int(state.gradient_step) == 2


def test_many_small_bfloat16_gradients_lose_nothing():
    params = {"w": jnp.zeros(3, jnp.bfloat16)}
    grads = [{"w": jnp.full(3, 1.0 + (i == 0) * 127, jnp.bfloat16)} for i in range(128)]
    tx = gradtx.accumulate_gradients(gradtx.sgd(1.0), 128)
    state = tx.init(params)
    for g in grads[:-1]:
        updates, state = tx.update(g, state, params)
        assert not np.any(updates["w"])
    assert state.mean["w"].dtype == jnp.float32
    updates, state = tx.update(grads[-1], state, {"w": params["w"].astype(jnp.float32)})
    np.testing.assert_allclose(updates["w"], -(255 / 128), rtol=1e-6)


def test_the_optimizer_does_not_run_between_rounds():
    calls = []

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return updates, state

    tx = gradtx.accumulate_gradients(optax.GradientTransformation(lambda p: optax.EmptyState(), update), 3)
    _, state = after(tx, micro_batches(7))
    jax.effects_barrier()
    assert len(calls) == 2
    assert not gradtx.has_updated(state)


def test_has_updated_at_any_depth():
    tx = gradtx.chain(gradtx.clip(1.0), gradtx.accumulate_gradients(gradtx.adam(0.1), 2))
    state, seen = tx.init(TREE), []
    for g in micro_batches(4):
        _, state = tx.update(g, state, TREE)
        seen.append(bool(gradtx.has_updated(state)))
    assert seen == [False, True, False, True]
    assert not gradtx.has_updated(tx.init(TREE))
    with pytest.raises(ValueError, match="found 0"):
        gradtx.has_updated(gradtx.adam(0.1).init(TREE))


def test_rounds_that_grow():
    tx = gradtx.accumulate_gradients(gradtx.sgd(0.1), lambda step: jnp.where(step < 1, 1, 3))
    state, seen = tx.init(TREE), []
    for g in micro_batches(7):
        _, state = tx.update(g, state, TREE)
        seen.append(bool(gradtx.has_updated(state)))
    assert seen == [True, False, False, True, False, False, True]


def test_one_gradient_a_round_keeps_no_mean():
    state = gradtx.accumulate_gradients(gradtx.sgd(0.1), 1).init(TREE)
    assert state.mean == ()
    with pytest.raises(ValueError, match="initialized for another every_k"):
        gradtx.accumulate_gradients(gradtx.sgd(0.1), 2).update(TREE, state, TREE)


def test_an_infinite_round_does_not_outlive_itself():
    grads = micro_batches(4)
    bad = jax.tree.map(lambda g: g + jnp.inf, grads[0])
    tx = gradtx.accumulate_gradients(gradtx.skip_nonfinite(gradtx.sgd(0.1)), 2)
    params, state = after(tx, [bad, grads[1], *grads[2:]])
    expected, _ = after(gradtx.sgd(0.1), [mean(grads[2:])])
    chex.assert_trees_all_close(params, expected, rtol=1e-6)
    assert int(state.inner.total) == 1


@pytest.mark.parametrize("every_k", [0, 2.5, True, "3"])
def test_bad_rounds(every_k: Any):
    with pytest.raises((TypeError, ValueError), match="every_k"):
        gradtx.accumulate_gradients(gradtx.sgd(0.1), every_k)


# ---- skipping ----


def poisoned(kind: float, dtype: Any = jnp.float32) -> Any:
    grads = samples.grads_like(TREE, dtype=dtype)
    return {**grads, "nested": {**grads["nested"], "scalar": jnp.asarray(kind, dtype)}}


@pytest.mark.parametrize("kind", [np.nan, np.inf, -np.inf])
def test_no_nonfinite_gradient_is_ever_applied(kind: float):
    # Trap 9: with max_consecutive_errors=2, apply_if_finite applies the third NaN in a row.
    tx = gradtx.skip_nonfinite(gradtx.adamw(0.1))
    params, before = after(tx, micro_batches(2))
    for i in range(5):
        params_after, state = after(tx, [poisoned(kind)] * (i + 1), before, params)
        chex.assert_trees_all_equal(params_after, params)
        chex.assert_trees_all_equal(state.inner, before.inner)
        assert (int(state.total), int(state.consecutive), bool(state.last_skipped)) == (i + 1, i + 1, True)
    good, state = after(tx, micro_batches(1), state, params)
    assert (int(state.total), int(state.consecutive), bool(state.last_skipped)) == (5, 0, False)
    expected, _ = after(tx, micro_batches(1), before, params)
    chex.assert_trees_all_equal(good, expected)


def test_optax_applies_the_third():
    tx = optax.apply_if_finite(optax.sgd(0.1), 2)
    state = tx.init(TREE)
    for _ in range(3):
        updates, state = tx.update(poisoned(np.nan), state, TREE)
    assert np.isnan(updates["nested"]["scalar"])


# ---- loss scaling ----


def test_loss_scaling_brings_back_what_float16_loses():
    params = {"w": jnp.ones(4, jnp.float16)}

    def loss(p: Any, factor: Any) -> Any:
        return jnp.sum(p["w"] * jnp.float16(1e-4)) * jnp.float16(1e-4) * factor.astype(jnp.float16)

    tx = gradtx.dynamic_loss_scale(gradtx.chain(gradtx.clip(1.0), gradtx.sgd(1e4)))
    state = tx.init(params)
    assert not np.any(jax.grad(loss)(params, jnp.float16(1.0))["w"] > 6e-8)
    grads = jax.grad(loss)(params, gradtx.loss_scale(state))
    updates, _ = tx.update(grads, state, params)
    np.testing.assert_allclose(np.asarray(updates["w"], np.float32), -1e-4, rtol=2e-3)


def test_loss_scale_follows_overflows():
    tx = gradtx.chain(
        gradtx.identity(),
        gradtx.dynamic_loss_scale(gradtx.adam(0.1), 8.0, growth_interval=2, min_scale=2.0, max_scale=16),
    )
    scales, state = [], tx.init(TREE)
    for overflow in [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]:
        grads = poisoned(np.inf, jnp.float16) if overflow else samples.grads_like(TREE, dtype=jnp.float16)
        updates, state = tx.update(grads, state, TREE)
        assert overflow == (not np.any(updates["block"].matrix))
        scales.append(float(gradtx.loss_scale(state)))
    assert scales == [8, 16, 16, 16, 8, 4, 2, 2, 2, 4]
    assert [int(c) for c in samples.counts(state)] == [10, 6]
    assert int(state.stages[1].skipped) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial_scale": 0.0},
        {"growth_interval": 0},
        {"backoff_factor": 1.0},
        {"growth_factor": 0.5},
        {"min_scale": -1.0},
    ],
)
def test_bad_scales(wrong: Any):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        gradtx.dynamic_loss_scale(gradtx.sgd(0.1), **wrong)


# ---- averages of parameters ----


@pytest.mark.parametrize("debias", [True, False])
def test_average_of_the_parameters_after_the_update(debias: bool):
    b, tx = 0.75, gradtx.chain(gradtx.adam(0.1), gradtx.average_parameters(0.75, debias))
    params, state, average = TREE, tx.init(TREE), jax.tree.map(lambda p: 0.0 if debias else np.float64(p), TREE)
    chex.assert_trees_all_equal(gradtx.averaged_parameters(tx, state, params), TREE)
    for i, g in enumerate(micro_batches(20)):
        params, state = gradtx.step(tx, params, state, g, donate=False)
        average = jax.tree.map(lambda a, p: b * a + (1 - b) * np.float64(p), average, params)
        weight = 1 - b ** (i + 1) if debias else 1.0
        expected = jax.tree.map(lambda a, w=weight: a / w, average)
        found = gradtx.averaged_parameters(tx, state, params)
        chex.assert_trees_all_close(jax.tree.map(np.float64, found), expected, rtol=1e-5, atol=1e-6)


def test_the_plain_mean_is_a_schedule():
    tx = gradtx.chain(gradtx.sgd(0.1), gradtx.average_parameters(lambda count: count / (count + 1)))
    params, state, seen = TREE, tx.init(TREE), []
    for g in micro_batches(50):
        params, state = gradtx.step(tx, params, state, g, donate=False)
        seen.append(params)
    chex.assert_trees_all_close(gradtx.averaged_parameters(tx, state, params), mean(seen), rtol=1e-5, atol=1e-6)


def test_averages_are_read_at_any_depth_and_in_the_parameters_dtype():
    params = samples.params(jnp.bfloat16)
    tx = gradtx.by_path(
        {
            "**/bias": "frozen",
            "block/**": gradtx.chain(gradtx.sgd(0.5), gradtx.average_parameters(0.0)),
            "**": gradtx.skip_nonfinite(gradtx.accumulate_gradients(gradtx.lookahead(gradtx.adam(0.1), 2, 0.5), 2)),
        }
    )
    updates, state = tx.update(params, tx.init(params), params)
    new = gradtx.apply_updates(params, updates)
    average = gradtx.averaged_parameters(tx, state, new)
    chex.assert_trees_all_equal(samples.avals(average), samples.avals(params))
    chex.assert_trees_all_equal(average, new)
    slow = gradtx.slow_parameters(tx, state, new)
    chex.assert_trees_all_equal(slow, {**params, "block": new["block"]})
    with pytest.raises(ValueError, match="no average_parameters in"):
        gradtx.averaged_parameters(gradtx.sgd(0.1), gradtx.sgd(0.1).init(params), params)


def test_lookahead_in_bfloat16_lands_on_the_slow_weights():
    params = samples.params(jnp.bfloat16)
    tx = gradtx.lookahead(gradtx.adam(0.1), 3, 0.5)
    state = tx.init(params)
    for i in range(6):
        updates, state = tx.update(samples.grads_like(params, i), state, params)
        params = gradtx.apply_updates(params, updates)
    for slow, fast in zip(
        jax.tree.leaves(gradtx.slow_parameters(tx, state, params)), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(np.asarray(slow, np.float32), np.asarray(fast, np.float32), rtol=2**-7)


def in_pairs(tx: Any, params: Any, steps: int, **slow: Any) -> tuple[Any, Any]:
    """Optax's way: `LookaheadParams` in place of the parameters."""
    pair = optax.LookaheadParams.init_synced(params)._replace(**slow)
    state = jax.jit(tx.init)(pair)
    for i in range(steps):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = jax.jit(tx.update)(samples.grads_like(params, i), state, pair)
        assert isinstance(updates, optax.LookaheadParams)
        pair = optax.apply_updates(pair, updates)
    return pair, state


@pytest.mark.parametrize("synced", [True, False])
def test_lookahead_in_pairs_is_that_of_optax(synced: bool):
    params = samples.params()
    # The caller's slow parameters count, wherever they come from.
    slow = {} if synced else {"slow": jax.tree.map(lambda p: p + 1.0, params)}
    clip, fast = gradtx.clip(0.5), gradtx.sgd(0.1, 0.9)
    ours, state = in_pairs(gradtx.chain(clip, gradtx.lookahead(fast, 3, 0.3)), params, 7, **slow)
    around, _ = in_pairs(optax.chain(optax.clip(0.5), gradtx.lookahead(fast, 3, 0.3)), params, 7, **slow)
    theirs, _ = in_pairs(optax.chain(optax.clip(0.5), optax.lookahead(optax.sgd(0.1, 0.9), 3, 0.3)), params, 7, **slow)
    chex.assert_trees_all_close(ours, theirs, rtol=2e-6, atol=2e-7)
    chex.assert_trees_all_close(around, theirs, rtol=2e-6, atol=2e-7)
    mapped = optax.tree.map_params(gradtx.chain(clip, gradtx.lookahead(fast, 3, 0.3)).init, lambda x: x, state)
    chex.assert_trees_all_equal(mapped, state)


@pytest.mark.parametrize("reset", [True, False])
def test_lookahead_in_pairs_and_alone_agree(reset: bool):
    params = samples.params()
    tx = gradtx.lookahead(gradtx.adam(0.1), 2, 0.5, reset_state=reset)
    pair, state = in_pairs(tx, params, 5)
    alone, other = _alone(tx, params, 5)
    chex.assert_trees_all_close(pair.fast, alone, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(pair.slow, gradtx.slow_parameters(tx, other, alone), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(gradtx.slow_parameters(tx, state, pair), pair.slow)
    chex.assert_trees_all_equal(samples.avals(state), samples.avals(other))


def test_an_optax_state_with_python_numbers_starts_anew():
    counting = optax.GradientTransformation(
        lambda p: {"fresh": True}, lambda u, s, p=None: (u, {"fresh": jnp.asarray(False)})
    )
    tx = gradtx.lookahead(counting, 2, 0.5, reset_state=True)
    state, params = jax.jit(tx.init)({"w": jnp.ones(3)}), {"w": jnp.ones(3)}
    for fresh in (False, True, False):
        _, state = jax.jit(tx.update)(params, state, params)
        (kept,) = (x for x in jax.tree.leaves(state) if x.dtype == bool)
        assert bool(kept) is fresh


def _alone(tx: Any, params: Any, steps: int) -> tuple[Any, Any]:
    state = tx.init(params)
    for i in range(steps):
        updates, state = tx.update(samples.grads_like(params, i), state, params)
        params = gradtx.apply_updates(params, updates)
    return params, state


def test_lookahead_in_pairs_by_one_step_and_by_groups():
    params = samples.params(jnp.bfloat16)
    tx = gradtx.by_path({"block/**": gradtx.lookahead(gradtx.sgd(0.1), 2, 0.5), "**": gradtx.sgd(0.1)})
    pair = gradtx.LookaheadParams.init_synced(params)
    state = tx.init(pair)
    for i in range(2):
        pair, state = gradtx.step(tx, pair, state, samples.grads_like(params, i), donate=False)
    # At the step of synchronization both are one; a leaf of another group is always its own slow one.
    for fast, slow in zip(jax.tree.leaves(pair.fast), jax.tree.leaves(pair.slow), strict=True):
        np.testing.assert_allclose(np.asarray(fast, np.float32), np.asarray(slow, np.float32), rtol=2**-7)
    chex.assert_trees_all_equal(samples.avals(pair.fast), samples.avals(params))


def test_lookahead_in_pairs_says_what_does_not_fit():
    params = {"w": jnp.ones((64, 80))}
    tx = gradtx.lookahead(gradtx.sgd(0.1), 2, 0.5)
    pair = optax.LookaheadParams(params, {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="leaf w: expected a slow parameter of the fast one's shape"):
        tx.update(params, tx.init(params), pair)
    with pytest.raises(ValueError, match="leaf v is in the slow parameters"):
        tx.update(params, tx.init(params), optax.LookaheadParams(params, {"v": jnp.ones(3)}))
    coded, pair = gradtx.with_storage(tx, slow="bfloat16"), optax.LookaheadParams(params, params)
    with pytest.raises(ValueError, match="expected its slow parameters to be stored as they are"):
        coded.update(params, coded.init(pair), pair)
    with pytest.raises(ValueError, match="different trees"):  # nothing here looks ahead
        gradtx.sgd(0.1).update(params, gradtx.sgd(0.1).init(params), pair)


# ---- all of them ----

WRAPPERS = {
    "accumulate_gradients": lambda tx: gradtx.accumulate_gradients(tx, 2),
    "skip_nonfinite": gradtx.skip_nonfinite,
    "dynamic_loss_scale": gradtx.dynamic_loss_scale,
    "restart_every": lambda tx: gradtx.restart_every(tx, 3),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_compiles_once_when_it_is_called_eagerly(name: str):
    tx = WRAPPERS[name](gradtx.adam(0.1))
    grads, state = samples.grads_like(TREE), tx.init(TREE)
    _, state = tx.update(grads, state, TREE)
    compilations = []
    listen = lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for _ in range(3):
            _, state = tx.update(grads, state, TREE)
            tx = tx.replace(learning_rate=0.2)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compilations


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_answers_bad_input(name: str):
    tx = WRAPPERS[name](gradtx.adam(0.1))
    state = tx.init({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="leaf w"):
        tx.update({"w": jnp.ones((4, 3))}, state, {"w": jnp.ones(3)})
    with pytest.raises(TypeError, match="leaf w"):
        tx.update({"w": jnp.ones(3, jnp.int32)}, state, {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=f"{name}: expected"):
        tx.update({"w": jnp.ones(3)}, state.inner, {"w": jnp.ones(3)})
    with pytest.raises(TypeError, match=f"{name}: expected a gradtx or Optax transformation.*call it first"):
        WRAPPERS[name](gradtx.adam)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_stage_works_in_float32(name: str):
    """Between two stages nothing is rounded to the 16 bits of gradient and parameter."""
    params = {"w": jnp.ones(64, jnp.bfloat16)}
    grads = samples.grads_like(params)
    seen = []

    class look(gradtx.Leafwise):
        def emit(self, s: Any, slots: Any, signal: Any) -> Any:
            seen.append(signal.update.dtype)
            return signal

    # Adam's direction of a third of a gradient is not a bfloat16 number.
    tx = gradtx.chain(gradtx.scale(1 / 3), WRAPPERS[name](gradtx.scale(1 / 3)), look())
    updates, _ = tx.update(grads, tx.init(params), params)
    assert seen == [jnp.float32]
    assert updates["w"].dtype == jnp.bfloat16


def test_accumulation_over_a_single_array():
    tx, params = gradtx.accumulate_gradients(gradtx.sgd(0.5), 2), jnp.array([3.0, -2.0])
    first, state = tx.update(params, tx.init(params), params)
    second, _ = tx.update(params, state, params)
    np.testing.assert_array_equal(first, 0.0)
    np.testing.assert_array_equal(second, -0.5 * params)
