"""How stages compose: the signal, scopes, names, masks, foreign stages, steps."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples

import gradtx
from gradtx import schedules
from gradtx._core import program
from gradtx._core.plan import plan_for

pytestmark = pytest.mark.usefixtures("quick_compilation")

TREE = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, -0.2])}
GRADS = [samples.grads_like(TREE, seed) for seed in range(4)]


def updates_of(tx: Any, grads: Any = GRADS, params: Any = TREE) -> Any:
    state, out = tx.init(params), []
    # Optax's own code is not written for strict promotion.
    with jax.numpy_dtype_promotion("strict" if isinstance(tx, gradtx.Transform) else "standard"):
        for g in grads:
            u, state = tx.update(g, state, params)
            out.append(u)
    return out


def assert_same(a: Any, b: Any, rtol: float = 1e-6) -> None:
    chex.assert_trees_all_close(updates_of(a), updates_of(b), rtol=rtol, atol=1e-9)


# ---- composition ----


def test_adam_is_its_chain():
    chain = gradtx.chain(
        gradtx.ema_first_moment(0.9),
        gradtx.ema_second_moment(0.999),
        gradtx.bias_correction(),
        gradtx.scale_by_rms(1e-8),
        gradtx.scale_by_learning_rate(1e-3),
    )
    assert chain == gradtx.adam(1e-3)
    assert_same(chain, optax.adam(1e-3), rtol=2e-5)


def test_adamw_is_adam_with_decay_before_the_learning_rate():
    *direction, rate = gradtx.adam(1e-3).stages
    assert gradtx.chain(*direction, gradtx.decoupled_weight_decay(1e-4), rate) == gradtx.adamw(1e-3)


def test_moments_in_either_order():
    a, b = gradtx.ema_first_moment(0.9), gradtx.ema_second_moment(0.99)
    rest = [gradtx.bias_correction(), gradtx.scale_by_rms(), gradtx.scale(-1.0)]
    assert_same(gradtx.chain(a, b, *rest), gradtx.chain(b, a, *rest), rtol=0)


def test_chain_is_associative():
    a, b, c = gradtx.clip(1.0), gradtx.adam(1e-2), gradtx.scale(2.0)
    assert gradtx.chain(a, gradtx.chain(b, c)) == gradtx.chain(gradtx.chain(a, b), c) == gradtx.chain(a, b, c)


def test_what_stands_in_front_of_an_estimator_changes_what_it_sees():
    before = gradtx.chain(gradtx.scale(3.0), gradtx.ema_first_moment(0.9), gradtx.ema_second_moment(0.99))
    behind = gradtx.chain(gradtx.ema_first_moment(0.9), gradtx.scale(3.0), gradtx.ema_second_moment(0.99))
    for tx, factor in ((before, 9.0), (behind, 1.0)):
        _, state = tx.update(GRADS[0], tx.init(TREE), TREE)
        chex.assert_trees_all_close(
            optax.tree.get(state, "nu"), jax.tree.map(lambda g, f=factor: f * g * g, GRADS[0]), rtol=1e-6
        )


def test_bias_correction_divides_what_was_changed_since():
    plain = gradtx.chain(gradtx.ema_first_moment(0.9), gradtx.bias_correction(), gradtx.scale(3.0))
    between = gradtx.chain(gradtx.ema_first_moment(0.9), gradtx.scale(3.0), gradtx.bias_correction())
    assert_same(plain, between)
    # Also across a treewise stage, between two leaf programs.
    treewise = gradtx.chain(
        gradtx.ema_first_moment(0.9), gradtx.clip_by_global_norm(1e6), gradtx.bias_correction(), gradtx.scale(3.0)
    )
    assert_same(plain, treewise)


def test_a_treewise_stage_inside_adam_keeps_the_second_moment():
    inside = gradtx.chain(
        gradtx.ema_first_moment(0.9),
        gradtx.ema_second_moment(0.999),
        gradtx.clip_by_global_norm(1e6),
        gradtx.bias_correction(),
        gradtx.scale_by_rms(),
        gradtx.scale_by_learning_rate(0.1),
    )
    assert_same(inside, gradtx.adam(0.1))


def test_l2_and_decoupled_decay_differ():
    l2 = gradtx.chain(gradtx.add_decayed_weights(0.1), gradtx.adam(0.1))
    decoupled = gradtx.adamw(0.1, weight_decay=0.1)
    a, b = updates_of(l2)[-1], updates_of(decoupled)[-1]
    assert float(jnp.max(jnp.abs(a["w"] - b["w"]))) > 1e-3
    # On constant zero gradients L2 moves every weight alike, whatever its size; decoupled decay shrinks in proportion.
    still = [jax.tree.map(jnp.zeros_like, TREE)]
    np.testing.assert_allclose(updates_of(l2, still)[0]["w"], -0.1 * np.sign(TREE["w"]), rtol=1e-5)
    np.testing.assert_allclose(updates_of(decoupled, still)[0]["w"], -0.01 * TREE["w"], rtol=1e-6)


def test_adamw_decay_is_multiplied_by_the_schedule_alone_where_asked():
    still = [jax.tree.map(jnp.zeros_like, TREE)] * 3
    eta = schedules.linear_schedule(1.0, 0.0, 4)
    for i, u in enumerate(updates_of(gradtx.adamw(1e-3, weight_decay=0.1, schedule=eta), still)):
        np.testing.assert_allclose(u["w"], -0.1 * (1 - i / 4) * TREE["w"], rtol=1e-6)
    for u in updates_of(gradtx.adamw(1e-3, weight_decay=0.1), still):
        np.testing.assert_allclose(u["w"], -0.1 * 1e-3 * TREE["w"], rtol=1e-6)


def test_scope_isolates():
    inner = gradtx.chain(gradtx.adam(0.1), gradtx.scope(gradtx.ema_first_moment(0.5), gradtx.bias_correction()))
    state_a, state_b = gradtx.adam(0.1).init(TREE), gradtx.ema(0.5).init(TREE)
    state = inner.init(TREE)
    for g in GRADS:
        u, state_a = gradtx.adam(0.1).update(g, state_a, TREE)
        expected, state_b = gradtx.ema(0.5).update(u, state_b)
        got, state = inner.update(g, state, TREE)
        chex.assert_trees_all_close(got, expected, rtol=1e-6)
    assert int(optax.tree.get(state, "count")) == len(GRADS)


def test_scope_around_a_treewise_stage():
    whole = gradtx.chain(gradtx.scale(2.0), gradtx.scope(gradtx.clip_by_global_norm(0.5), gradtx.ema_first_moment(0.9)))
    parts = optax.chain(optax.scale(2.0), optax.clip_by_global_norm(0.5), optax.ema(0.9, debias=False))
    assert_same(whole, parts, rtol=1e-5)


def test_momentum_behind_rms():
    tx = gradtx.chain(gradtx.ema_second_moment(0.9), gradtx.scale_by_rms(), gradtx.trace(0.9), gradtx.nesterov())
    peer = optax.chain(optax.scale_by_rms(0.9, eps_in_sqrt=False), optax.trace(0.9, nesterov=True))
    assert_same(tx, peer, rtol=1e-5)


def test_a_stage_of_ones_own():
    class scale_by_sign(gradtx.Leafwise):
        def emit(self, s: Any, slots: Any, signal: gradtx.Signal) -> gradtx.Signal:
            return signal.write(jnp.sign(signal.update))

    class running_maximum(gradtx.Leafwise):
        factor: float = gradtx.number_field(default=1.0, minimum=0.0)

        def slots(self) -> tuple[gradtx.Slot, ...]:
            return (gradtx.Slot("largest"),)

        def accumulate(self, s: Any, slots: Any, signal: gradtx.Signal) -> Any:
            return {"largest": jnp.maximum(slots["largest"], jnp.abs(signal.update))}

        def emit(self, s: Any, slots: Any, signal: gradtx.Signal) -> gradtx.Signal:
            return signal.write(s.factor * slots["largest"])

    assert_same(gradtx.chain(scale_by_sign(), gradtx.scale(-0.1)), optax.sign_sgd(0.1))
    tx = running_maximum(2.0)
    assert repr(tx) == "running_maximum(2.0)"
    largest = jax.tree.map(lambda *g: 2 * jnp.max(jnp.abs(jnp.stack(g)), 0), *GRADS)
    chex.assert_trees_all_close(updates_of(tx)[-1], largest)


# ---- foreign stages ----


def test_foreign_transformations_anywhere():
    def inverse(count: Any) -> Any:
        return 1.0 / (count.astype(jnp.float32) + 1)

    mixed = gradtx.chain(optax.clip_by_global_norm(0.7), gradtx.adam(0.1), optax.scale_by_schedule(inverse))
    peer = optax.chain(optax.clip_by_global_norm(0.7), optax.adam(0.1), optax.scale_by_schedule(inverse))
    assert_same(mixed, peer, rtol=2e-5)


def test_a_foreign_stage_receives_raw_values_and_the_moments_survive_it():
    tx = gradtx.chain(
        gradtx.ema_first_moment(0.9),
        gradtx.ema_second_moment(0.999),
        optax.scale(1.0),
        gradtx.bias_correction(),
        gradtx.scale_by_rms(),
        gradtx.scale_by_learning_rate(0.1),
    )
    assert_same(tx, gradtx.adam(0.1))


def test_keywords_reach_foreign_stages():
    tx = gradtx.chain(optax.polyak_sgd(scaling=1.0))
    peer = optax.polyak_sgd(scaling=1.0)
    got, _ = tx.update(GRADS[0], tx.init(TREE), TREE, value=2.0)
    expected, _ = peer.update(GRADS[0], peer.init(TREE), TREE, value=2.0)
    chex.assert_trees_all_close(got, expected)


# ---- data ----


def test_replace_by_name_and_address():
    tx = gradtx.chain(("front", gradtx.clip(1.0)), gradtx.adamw(1e-3), ("back", gradtx.clip(2.0)))
    assert repr(tx).startswith("chain(('front', clip(1.0)), ema_first_moment(0.9)")
    new = tx.replace({"front.max_delta": 0.5}, learning_rate=3e-4, b1=0.95)
    assert new == gradtx.chain(("front", gradtx.clip(0.5)), gradtx.adamw(3e-4, b1=0.95), ("back", gradtx.clip(2.0)))
    _, state = tx.update(GRADS[0], tx.init(TREE), TREE)
    new.update(GRADS[1], state, TREE)
    assert gradtx.named_chain(("front", gradtx.clip(1.0))).stages[0] == tx.stages[0]
    assert tx.stages[0] != gradtx.clip(1.0)
    cosine = gradtx.sgd(schedules.cosine_decay_schedule(0.1, 10))
    assert cosine.replace(init_value=0.2) == gradtx.sgd(schedules.cosine_decay_schedule(0.2, 10))


@pytest.mark.parametrize("rate", [1e-3, np.float64(1e-3), np.float32(1e-3), jnp.float32(1e-3), np.array(1e-3)])
def test_numbers_of_every_kind_are_one(rate: Any):
    assert gradtx.adam(rate) == gradtx.adam(1e-3)
    assert hash(gradtx.adam(rate)) == hash(gradtx.adam(1e-3))
    assert gradtx.sgd(1) == gradtx.sgd(1.0)


def test_array_hyperparameters_compare_by_bytes():
    a, b = (gradtx.sgd(jnp.array([0.1, x])) for x in (0.2, 0.3))
    assert a == gradtx.sgd(jnp.array([0.1, 0.2]))
    assert hash(a) == hash(gradtx.sgd(jnp.array([0.1, 0.2])))
    assert a != b
    assert copy.deepcopy(a) == a


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_arrays_of_decays_are_the_decimals_that_they_name(kind: Any):
    """1 - float32(0.999) is 9.99987e-4, a decay that is wrong by 1.3e-5."""
    complement, *_ = jax.tree.leaves(gradtx.ema_second_moment(kind(np.float32([0.9, 0.999]))))
    np.testing.assert_array_equal(complement, np.float32([0.1, 0.001]))
    assert complement.dtype == np.float32
    exact = gradtx.ema_second_moment(np.array([0.9, 0.999]))
    np.testing.assert_array_equal(jax.tree.leaves(exact)[0], 1 - np.array([0.9, 0.999]))


def test_a_decay_is_a_number_to_arithmetic():
    b = gradtx.ema_first_moment(0.999).b1
    assert (b + 1, 1 + b, b - 1, 2 - b, 2 * b, b * 2, b / 2, 1 / b, b**2, -b) == (
        1.999, 1.999, 0.999 - 1, 2 - 0.999, 1.998, 1.998, 0.4995, 1 / 0.999, 0.999**2, -0.999,
    )  # fmt: skip
    assert 1 - b == 1 - 0.999
    assert (b < 1, b <= 0.999, b > 0.9, b >= 1, b < b) == (True, True, True, False, False)
    assert (round(b, 2), f"{b:.2f}", f"{b}") == (1.0, "1.00", "0.999")
    np.testing.assert_array_equal(jnp.asarray(b), np.float32(0.999))


@pytest.mark.parametrize("grad", [jnp.float8_e5m2, jnp.bfloat16, jnp.float32])
def test_parameters_of_8_bits(grad: Any):
    """JAX promotes them to nothing: an update is as wide as its gradient, float32 for two different 8-bit dtypes."""
    params = {"w": jnp.ones(3, jnp.float8_e4m3fn)}
    tx = gradtx.adamw(0.25)
    updates, state = tx.update({"w": jnp.ones(3, grad)}, tx.init(params), params)
    assert updates["w"].dtype == (jnp.float32 if grad == jnp.float8_e5m2 else grad)
    assert optax.tree.get(state, "nu")["w"].dtype == jnp.float32
    new = gradtx.apply_updates(params, updates)["w"]
    assert new.dtype == jnp.float8_e4m3fn
    np.testing.assert_array_equal(np.asarray(new, np.float32), 0.75)


def test_step_donates_and_does_not_recompile():
    p, state = jax.tree.map(jnp.copy, TREE), gradtx.adamw(1e-3).init(TREE)
    before = gradtx._apply._donating_step._cache_size()
    for rate in (1e-3, 1, np.float32(0.5), jnp.float32(0.1)):
        old = p
        p, state = gradtx.step(gradtx.adamw(rate), p, state, GRADS[0])
        assert all(x.is_deleted() for x in jax.tree.leaves(old))
    assert gradtx._apply._donating_step._cache_size() == before + 1
    kept, _ = gradtx.step(gradtx.adamw(1e-3), p, state, GRADS[0], donate=False)
    assert not any(x.is_deleted() for x in jax.tree.leaves((p, state)))
    assert jax.tree.structure(kept) == jax.tree.structure(p)


def test_step_passes_keywords_on():
    tx = gradtx.chain(optax.scale_by_backtracking_linesearch(max_backtracking_steps=5))
    p = {"w": jnp.array([1.0, 2.0])}

    def loss(p: Any) -> Any:
        return jnp.sum(p["w"] ** 2)

    grads = jax.grad(loss)(p)
    with jax.numpy_dtype_promotion("standard"):
        new, _ = gradtx.step(
            tx, p, tx.init(p), jax.tree.map(jnp.negative, grads), donate=False, value=loss(p), grad=grads, value_fn=loss
        )
    assert new["w"].shape == (2,)


# ---- masks ----


@pytest.mark.parametrize(
    "mask",
    [
        {"w": True, "b": False},
        lambda params: jax.tree.map(lambda p: p.ndim == 2, params),
        lambda path, leaf: path == "w",
        lambda path, leaf: leaf.ndim == 2,
    ],
)
def test_masks_of_every_kind(mask: Any):
    assert_same(
        gradtx.adamw(0.1, weight_decay=0.1, mask=mask),
        optax.adamw(0.1, weight_decay=0.1, mask={"w": True, "b": False}),
        rtol=2e-5,
    )


def test_a_mask_may_be_a_prefix():
    tree = {"frozen": TREE, "rest": TREE}
    tx = gradtx.add_decayed_weights(0.1, mask={"frozen": False, "rest": True})
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, tree), tx.init(tree), tree)
    chex.assert_trees_all_equal(updates["frozen"], jax.tree.map(jnp.zeros_like, TREE))
    chex.assert_trees_all_close(updates["rest"], jax.tree.map(lambda p: 0.1 * p, TREE))


# ---- schedules ----

PAIRS = [
    (schedules.constant_schedule, optax.constant_schedule, (0.3,)),
    (schedules.linear_schedule, optax.linear_schedule, (0.1, 0.3, 7, 2)),
    (schedules.polynomial_schedule, optax.polynomial_schedule, (0.1, 0.3, 2.0, 7, 2)),
    (schedules.exponential_decay, optax.exponential_decay, (0.1, 5, 0.5, 2, True, 0.01)),
    (schedules.cosine_decay_schedule, optax.cosine_decay_schedule, (0.1, 20, 0.2, 1.5)),
    (schedules.warmup_constant_schedule, optax.warmup_constant_schedule, (0.0, 0.3, 5)),
    (schedules.warmup_cosine_decay_schedule, optax.warmup_cosine_decay_schedule, (0.0, 0.3, 5, 20, 0.1, 1.0)),
    (schedules.warmup_cosine_decay_schedule, optax.warmup_cosine_decay_schedule, (0.3, 0.3, 0, 20)),
    (schedules.warmup_exponential_decay_schedule, optax.warmup_exponential_decay_schedule, (0.0, 0.3, 5, 7, 0.5)),
    (schedules.piecewise_constant_schedule, optax.piecewise_constant_schedule, (0.3, {3: 0.5, 9: 0.1})),
    (schedules.piecewise_interpolate_schedule, optax.piecewise_interpolate_schedule, ("cosine", 0.3, {3: 0.5, 9: 0.1})),
    (schedules.linear_onecycle_schedule, optax.linear_onecycle_schedule, (20, 0.3)),
    (schedules.cosine_onecycle_schedule, optax.cosine_onecycle_schedule, (20, 0.3)),
]


@pytest.mark.parametrize(("ours", "theirs", "arguments"), PAIRS, ids=lambda x: getattr(x, "__name__", ""))
def test_schedules_are_optax_s(ours: Any, theirs: Any, arguments: Any):
    import pickle

    schedule = ours(*arguments)
    counts = jnp.arange(25)
    call = jax.jit(lambda s, c: s(c))
    with jax.numpy_dtype_promotion("standard"):
        expected = [float(theirs(*arguments)(c)) for c in counts]
        got = [float(schedule(c)) for c in counts]
        as_data = [float(call(schedule, c)) for c in counts]
    np.testing.assert_allclose(got, expected, rtol=5e-6)  # Optax is off by 2e-6 itself
    np.testing.assert_allclose(as_data, expected, rtol=1e-5, atol=1e-7)
    assert schedule == ours(*arguments)
    assert hash(schedule) == hash(ours(*arguments))
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), vars(schedules)) == schedule


def test_joined_schedules():
    parts = (schedules.linear_schedule(0.0, 1.0, 4), schedules.cosine_decay_schedule(1.0, 10))
    joined = schedules.join_schedules(parts, [4])
    peer = optax.join_schedules([optax.linear_schedule(0.0, 1.0, 4), optax.cosine_decay_schedule(1.0, 10)], [4])
    np.testing.assert_allclose([joined(i) for i in range(12)], [peer(i) for i in range(12)], rtol=5e-6)


@pytest.mark.parametrize("name", ["learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay"], ids=lambda n: n)
def test_any_number_may_be_a_schedule(name: str):
    ends = {"learning_rate": (0.1, 0.2), "b1": (0.5, 0.9), "b2": (0.9, 0.99)}.get(name, (1e-3, 1e-1))
    constant = gradtx.adamw(**{"learning_rate": 0.1, name: ends[0]})
    flat = gradtx.adamw(**{"learning_rate": 0.1, name: schedules.constant_schedule(ends[0])})
    moving = gradtx.adamw(**{"learning_rate": 0.1, name: schedules.linear_schedule(*ends, 3)})
    foreign = gradtx.adamw(**{"learning_rate": 0.1, name: optax.linear_schedule(*ends, 3)})
    assert_same(flat, constant, rtol=2e-5)
    assert_same(foreign, moving, rtol=1e-6)
    assert float(jnp.max(jnp.abs(updates_of(moving)[-1]["w"] - updates_of(constant)[-1]["w"]))) > 1e-6


def test_equal_structures_share_a_trace_whatever_the_schedule_ends_at():
    step = jax.jit(lambda tx, g, s, p: tx.update(g, s, p))
    for peak in (0.1, 0.2):
        tx = gradtx.adamw(schedules.warmup_cosine_decay_schedule(0.0, peak, 5, 20))
        step(tx, GRADS[0], tx.init(TREE), TREE)
    assert step._cache_size() == 1


# ---- dtypes ----


def test_float64(x64: None):
    tree = {"w": jnp.asarray([1.0, -2.0], jnp.float64), "b": jnp.asarray([1.0], jnp.float32)}
    tx = gradtx.adamw(1e-3)
    state = tx.init(tree)
    assert state.stages[0]["mu"]["w"].dtype == jnp.float64
    assert state.stages[0]["mu"]["b"].dtype == jnp.float32
    updates, after = tx.update(tree, state, tree)
    chex.assert_trees_all_equal(samples.avals(state), samples.avals(after))
    expected = -1e-3 * (np.sign([1.0, -2.0]) / (1 + 1e-8 / np.abs([1.0, -2.0])) + 1e-4 * np.array([1.0, -2.0]))
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-13)


def test_numpy_arrays_are_parameters_too():
    tree = {"w": np.array([1.0, -2.0])}  # float64, which JAX takes as float32 unless x64 is enabled
    tx = gradtx.adamw(0.1)
    updates, state = tx.update(tree, tx.init(tree), tree)
    assert updates["w"].dtype == state.stages[0]["mu"]["w"].dtype == jnp.float32
    assert gradtx.apply_updates(tree, updates)["w"].dtype == jnp.float32
    assert gradtx.schedules.cosine_decay_schedule(0.1, np.int64(10)) == gradtx.schedules.cosine_decay_schedule(0.1, 10)


def test_complex_parameters_have_real_second_moments():
    tree = {"z": jnp.array([1 + 2j, -0.5j], jnp.complex64)}
    tx = gradtx.adamw(0.1)
    state = tx.init(tree)
    assert state.stages[1]["nu"]["z"].dtype == jnp.float32
    updates, after = tx.update(tree, state, tree)
    chex.assert_trees_all_equal(samples.avals(state), samples.avals(after))
    z = np.asarray(tree["z"])
    np.testing.assert_allclose(updates["z"], -0.1 * (z / np.abs(z) + 1e-4 * z), rtol=1e-5)


def test_a_moment_in_half_precision_is_used_as_stored():
    tx = gradtx.chain(gradtx.ema_first_moment(0.9, "bfloat16"))
    g = jnp.array([1.00390625 + 2**-12])
    updates, state = tx.update(g, tx.init(g))
    stored = state.stages[0]["mu"]
    assert stored.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates, 0.1 * stored.astype(jnp.float32), rtol=1e-6)


# ---- series ----


def test_ema_of_a_series_of_numbers():
    tx = gradtx.ema(0.9)
    state = tx.init(0.0)
    for loss in (3.0, 2.0, 1.0):
        average, state = tx.update(loss, state)
    weights = np.array([0.81, 0.9, 1.0])
    assert float(average) == pytest.approx(np.dot(weights, [3, 2, 1]) / weights.sum(), rel=1e-6)


def test_explicit_sharding():
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        w = jax.device_put(jnp.ones((4, 8)), jax.sharding.NamedSharding(mesh, jax.P("data", "model")))
        tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-3))
        for init in (tx.init, jax.jit(tx.init)):
            state = init({"w": w})
            step = jax.jit(tx.update)
            for _ in range(3):
                updates, state = step({"w": w}, state, {"w": w})
            assert state.stages[1]["mu"]["w"].sharding.is_equivalent_to(w.sharding, 2)
            assert updates["w"].sharding.is_equivalent_to(w.sharding, 2)


# ---- values ----


def test_masks_compare_by_value_and_type_and_are_copied():
    tree = {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match="True or False, got 1"):
        gradtx.adamw(0.1, mask={"w": 1}).update(tree, gradtx.adamw(0.1).init(tree), tree)
    good = gradtx.adamw(0.1, mask={"w": True})
    good.update(tree, good.init(tree), tree)
    assert good != gradtx.adamw(0.1, mask={"w": 1})
    mask = {"w": True}
    tx = gradtx.adamw(0.1, mask=mask)
    mask["w"] = False
    assert tx == good
    assert repr(tx) == repr(good)
    with pytest.raises(TypeError, match="leaf w: expected the mask to say True or False, got None"):
        gradtx.adamw(0.1, mask={"w": None}).update(tree, good.init(tree), tree)


@pytest.mark.parametrize("x", [0.1 * 3, 1 / 3, 1e300, 1e-300, 1e16, float("inf"), 0.1, 1.0])
def test_numbers_print_as_they_are(x: float):
    assert eval(repr(gradtx.scale(x)), vars(gradtx)) == gradtx.scale(x)


@pytest.mark.parametrize("b", [0.9, 0.999, 1 / 3, 1 - 1e-16, 0.1, 0.0, 1e-3, 0.95])
def test_decays_print_as_they_are(b: float):
    tx = gradtx.ema_first_moment(b)
    assert eval(repr(tx), vars(gradtx)) == tx
    assert abs(tx.b1.value - b) <= 1e-16


def test_names():
    tx = gradtx.chain(("outer", gradtx.chain(("inner", gradtx.clip(1.0)), gradtx.sgd(0.1))))
    assert tx.replace({"outer.inner.max_delta": 2.0}).stages[0] == gradtx.named("outer.inner", gradtx.clip(2.0))
    scoped = gradtx.chain(("avg", gradtx.ema(0.9)), gradtx.adam(0.1))
    assert "b1=0.5" not in repr(scoped)
    assert "ema_first_moment(0.5)" in repr(scoped.replace({"avg.b1": 0.5}))
    q = gradtx.named("q", gradtx.clip(1.0))
    assert eval(repr(q), vars(gradtx)) == q != gradtx.clip(1.0)
    assert copy.deepcopy(gradtx.chain(optax.clip(1.0), gradtx.sgd(optax.linear_schedule(0.1, 0, 5)))) is not None


def test_tied_arrays_can_be_donated():
    shared = jnp.ones(2)
    tree = {"enc": shared, "dec": shared}
    new, _ = gradtx.step(gradtx.adam(0.1), tree, gradtx.adam(0.1).init(tree), {"enc": shared, "dec": jnp.zeros(2)})
    np.testing.assert_allclose(new["enc"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(new["dec"], 1.0)
    tx = gradtx.chain(optax.contrib.prodigy())  # whose first state holds the parameters themselves
    with jax.numpy_dtype_promotion("standard"):
        gradtx.step(tx, {"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})


def test_a_stage_that_acts_on_some_leaves_keeps_state_for_those():
    class counted(gradtx.Leafwise):
        def slots(self) -> tuple[gradtx.Slot, ...]:
            return (gradtx.Slot("seen"),)

        def applies(self, params: Any) -> list[bool]:
            return [x.ndim > 1 for x in jax.tree.leaves(params)]

        def accumulate(self, s: Any, slots: Any, signal: gradtx.Signal) -> Any:
            return {"seen": slots["seen"] + 1}

    state = counted().init(TREE)
    assert isinstance(state.stages[0]["seen"]["b"], optax.MaskedNode)
    _, after = counted().update(TREE, state, TREE)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_masks_do_not_enter_what_is_computed_once_a_step():
    from gradtx._core import program

    def use(threshold: int) -> None:
        tx = gradtx.adamw(0.1, mask=lambda path, leaf: leaf.ndim > threshold)
        tx.update(TREE, tx.init(TREE), TREE)

    use(0)
    before = program.step_scalars._cache_size()
    use(1)
    assert program.step_scalars._cache_size() == before


def test_sgdr_and_numbers_among_schedules():
    parts = [{"init_value": 0.0, "peak_value": p, "warmup_steps": 2, "decay_steps": 6} for p in (1.0, 0.5)]
    with jax.numpy_dtype_promotion("standard"):
        ours, theirs = schedules.sgdr_schedule(parts), optax.sgdr_schedule([dict(p) for p in parts])
        np.testing.assert_allclose([ours(i) for i in range(12)], [theirs(i) for i in range(12)], rtol=1e-6)
        joined = schedules.join_schedules([schedules.constant_schedule(1.0), 0.1], [5])
        assert [float(joined(i)) for i in (0, 9)] == pytest.approx([1.0, 0.1])
        assert float(schedules.exponential_decay(0.1, 10, jnp.asarray(0.5))(10)) == pytest.approx(0.05)


def test_an_empty_chain_promotes_too():
    tx = gradtx.chain()
    p, g = {"w": jnp.ones(2)}, {"w": jnp.ones(2, jnp.bfloat16)}
    updates, _ = tx.update(g, tx.init(p), p)
    assert updates["w"].dtype == jnp.float32
    assert float(gradtx.global_norm({"a": jnp.arange(3)})) == pytest.approx(5**0.5)


@pytest.mark.usefixtures("x64")
def test_kinds_of_programs_that_differ_are_unequal():
    # NumPy's float64 equals None, and a compiled program may be found by equality: an update that leaves the chain and
    # one in the middle of it must not be told apart by that alone.
    float64 = np.dtype(np.float64)
    assert float64 == None  # noqa: E711
    ends, goes_on = gradtx.scale(2.0), gradtx.chain(gradtx.scale(2.0), optax.clip(1.0))
    kinds = [
        program.leaf_kind(plan_for(jax.tree.structure(tx)), 0, (0,), (), float64, float64) for tx in (ends, goes_on)
    ]
    assert kinds[0].stages == kinds[1].stages
    assert kinds[0] != kinds[1]
    for kind in kinds:
        assert not any(value is None for value in vars(kind).values())


def test_a_stage_that_recalls_sees_its_slots_as_they_were():
    class difference(gradtx.Leafwise):
        recalls = True

        def slots(self):
            return (gradtx.Slot("last", dtype=np.dtype(jnp.bfloat16)),)

        def accumulate(self, s, slots, signal):
            return {"last": signal.update}

        def emit(self, s, slots, signal):
            return signal.write(slots["last"] - s.old["last"])

    found = updates_of(gradtx.chain(difference(), gradtx.trace(0.5)))
    stored = [jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), g) for g in GRADS]
    changes = [stored[0], *(jax.tree.map(jnp.subtract, b, a) for a, b in itertools.pairwise(stored))]
    chex.assert_trees_all_close(found, updates_of(gradtx.trace(0.5), changes), rtol=1e-6)


def test_moments_behind_a_stage_that_replaces_the_gradient_see_the_new_one():
    class doubled(gradtx.Leafwise):
        def emit(self, s, slots, signal):
            signal = signal.capture()
            return signal.replace(gradient=2 * signal.captured)

    for estimator in (gradtx.ema_second_moment(0.9), gradtx.sum_of_squares(), gradtx.ema_squared_norm(0.5)):
        ends = []
        for tx in (gradtx.chain(doubled(), estimator), gradtx.chain(gradtx.scale(2.0), estimator)):
            state = tx.init(TREE)
            for g in GRADS:
                state = tx.update(g, state, TREE)[1]
            ends.append(state.stages[1]["nu"])
        chex.assert_trees_all_close(*ends, rtol=1e-6)


def test_the_signal_knows_whether_a_learning_rate_has_turned_the_update():
    class by_direction(gradtx.Leafwise):
        def emit(self, s, slots, signal):
            return signal.write(jnp.full_like(signal.update, -1 if signal.opposed else 1))

    rate = gradtx.scale_by_learning_rate
    for stages, sign in [
        ((), 1),
        ((rate(0.1),), -1),
        ((rate(0.1, flip_sign=False),), 1),
        ((rate(0.1), gradtx.clip_by_global_norm(1.0), optax.scale(2.0)), -1),
        ((gradtx.scope(gradtx.adam(0.1)),), -1),
        ((rate(0.1), gradtx.scope(gradtx.trace(0.9))), -1),
        ((rate(0.1), gradtx.scope(rate(0.1))), 1),
        ((gradtx.by_path({"w": rate(0.1), "**": gradtx.sgd(0.1)}),), -1),
    ]:
        for leaf in jax.tree.leaves(updates_of(gradtx.chain(*stages, by_direction()))):
            np.testing.assert_array_equal(leaf, sign)
