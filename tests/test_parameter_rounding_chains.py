"""Rounding of parameters among other stages, groups and wrappers; what is refused; and that 16-bit training goes on."""

from __future__ import annotations

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference.rounding import Grid
from test_parameter_rounding import EVERY, STAGES, bits_of, wide

import gradtx
from gradtx import schedules

RNG = np.random.default_rng(0)
PARAMS = {
    "kernel": jnp.asarray(RNG.normal(size=(8, 5)), jnp.bfloat16),
    "bias": jnp.asarray(RNG.normal(size=5), jnp.float16),
    "scale": jnp.asarray(RNG.normal(size=5), jnp.float32),
}
GRADS = [jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), PARAMS) for _ in range(6)]


def run(tx, grads=GRADS, params=PARAMS, apply=gradtx.apply_updates):
    state = tx.init(params)
    update = jax.jit(tx.update)
    with jax.numpy_dtype_promotion("standard"):
        for g in grads:
            updates, state = update(g, state, params)
            params = apply(params, updates)
    return params, state


def optimizer():
    return gradtx.adamw(1e-3, weight_decay=0.1)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(wide, a), jax.tree.map(wide, b))


AROUND = {
    "inject_hyperparams": lambda tx: gradtx.inject_hyperparams(tx),
    "skip_nonfinite": gradtx.skip_nonfinite,
    "accumulate 1": lambda tx: gradtx.accumulate_gradients(tx, 1),
    "loss scale": lambda tx: gradtx.dynamic_loss_scale(tx, initial_scale=1.0),
    "restart": lambda tx: gradtx.restart_every(tx, 100),
    "groups": lambda tx: gradtx.by_path({"kernel": tx, "**": tx}),
    "average": lambda tx: gradtx.chain(tx, gradtx.average_parameters(0.9)),
    "optax.chain": lambda tx: optax.chain(optax.identity(), tx),
    "optax.MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
    "optax.masked": lambda tx: optax.masked(tx, True),
}


@pytest.mark.parametrize("around", AROUND)
def test_inside_whatever_passes_updates_on(around):
    tx = gradtx.chain(optimizer(), STAGES["master_24"])
    one = [{"kernel": g["kernel"]} for g in GRADS[:4]], {"kernel": PARAMS["kernel"]}
    expected, _ = run(tx, *one)
    wrapped = AROUND[around](tx)
    ours = isinstance(wrapped, gradtx.Transform)
    found, _ = run(wrapped, *one, apply=gradtx.apply_updates if ours else optax.apply_updates)
    assert_same(found, expected)


BEHIND = {
    "skip_nonfinite": gradtx.skip_nonfinite,
    "accumulate": lambda tx: gradtx.accumulate_gradients(tx, 2),
    "loss scale": gradtx.dynamic_loss_scale,
}


@pytest.mark.parametrize("wrapper", BEHIND)
@pytest.mark.parametrize("name", ["stochastic", "compensated", "master_32"])
def test_conditional_wrappers_inside_and_outside(name, wrapper):
    """A step that is not made moves no parameter and keeps what waits for the next one."""
    start, series = {"kernel": PARAMS["kernel"]}, [{"kernel": g["kernel"]} for g in GRADS]
    bad = jax.tree.map(lambda g: g.at[..., 0].set(jnp.inf), series[1])
    grads = [series[0], *([series[2]] if wrapper == "accumulate" else [bad]), *series[3:5]]
    grads = [jax.tree.map(lambda g: g * 2.0**-8, g) for g in grads]
    for tx in (
        BEHIND[wrapper](gradtx.chain(optimizer(), STAGES[name])),
        gradtx.chain(BEHIND[wrapper](optimizer()), STAGES[name]),
    ):
        params, state = start, tx.init(start)
        still = 0
        for g in grads:
            before = params, state
            params, state = gradtx.step(tx, params, state, g, donate=False)
            chex.assert_trees_all_equal(samples_of(state), samples_of(before[1]))
            if (bits_of(params["kernel"]) == bits_of(before[0]["kernel"])).all():
                still += 1
                for kept, old in zip(rounding_slots(state), rounding_slots(before[1]), strict=True):
                    np.testing.assert_array_equal(kept, old)
        assert still == (2 if wrapper == "accumulate" else 1)


def samples_of(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


def rounding_slots(state):
    """What a rounding stage keeps, wherever its state is."""
    found = jax.tree_util.tree_flatten_with_path(state)[0]
    return [x for path, x in found if any(n in jax.tree_util.keystr(path) for n in ("residual", "master", "low_bits"))]


@pytest.mark.parametrize("name", ["stochastic", "compensated", "master_32"])
def test_float32_parameters_and_wider_ones_pass_through(name, x64):
    params = {"a": jnp.ones(3, jnp.float32), "b": jnp.ones(3, jnp.float64), "c": jnp.ones(3, jnp.complex64)}
    tx = gradtx.chain(gradtx.adam(1e-3), STAGES[name])
    found, state = run(tx, [params] * 3, params)
    expected, _ = run(gradtx.adam(1e-3), [params] * 3, params)
    chex.assert_trees_all_equal(found, expected)
    assert not rounding_slots(state)


@pytest.mark.parametrize("name", ["stochastic", "compensated", "master"])
def test_groups_round_their_own_leaves(name):
    tx = gradtx.by_path({"kernel": gradtx.chain(optimizer(), STAGES[name]), "bias": "frozen", "**": optimizer()})
    params, state = run(tx)
    assert all(x.shape == PARAMS["kernel"].shape for x in rounding_slots(state))
    assert_same(params["bias"], PARAMS["bias"])
    alone, _ = run(
        gradtx.chain(optimizer(), gradtx.master_weights()),
        [{"kernel": g["kernel"]} for g in GRADS],
        {"kernel": PARAMS["kernel"]},
    )
    step = float(jnp.finfo(jnp.bfloat16).eps)
    assert (np.abs(wide(params["kernel"]) - wide(alone["kernel"])) <= 2 * step * np.abs(wide(alone["kernel"]))).all()


def test_storage_schedules_and_clipping_around_it():
    rate, stage = schedules.linear_schedule(1e-3, 1e-4, 5), STAGES["master_24"]
    big = {"w": jnp.asarray(RNG.normal(size=(64, 64)), jnp.bfloat16)}
    clip, grads = gradtx.clip_by_global_norm(1.0), [jax.tree.map(lambda p: p * 0.1, big)] * 3
    params, state = run(gradtx.chain(clip, gradtx.adamw(rate, storage="half"), stage), grads, big)
    again, other = run(gradtx.with_storage(gradtx.chain(clip, gradtx.adamw(rate), stage), "half"), grads, big)
    assert_same(params, again)
    assert [x.dtype for x in rounding_slots(state)] == [x.dtype for x in rounding_slots(other)] == [jnp.int8]


def test_optax_s_conditional_wrapper_goes_inside():
    """Outside, its two branches differ in dtype where gradients have 16 bits."""
    tx = gradtx.chain(optax.apply_if_finite(optax.adamw(1e-3), 3), STAGES["compensated"])
    bad = jax.tree.map(lambda g: g * jnp.nan, GRADS[0])
    with jax.numpy_dtype_promotion("standard"):
        params, state = run(tx, [bad, bad])
    assert_same(params, PARAMS)
    assert not any(np.any(wide(x)) for x in rounding_slots(state))


def test_master_weights_are_the_same_however_they_are_kept():
    """And the same as those of float32 parameters, to float32's last places."""
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=(200, 300)), jnp.bfloat16)}
    series = jnp.asarray(rng.normal(size=(20, 200, 300)) * 0.01, jnp.float32)

    def train(stage, params):
        tx = gradtx.chain(gradtx.adamw(1e-3), stage)

        def body(carry, g):
            params, state = carry
            updates, state = tx.update({"w": g}, state, params)
            return (gradtx.apply_updates(params, updates), state), None

        return tx, *jax.jit(lambda c: jax.lax.scan(body, c, series)[0])((params, tx.init(params)))

    wide_params = {"w": params["w"].astype(jnp.float32)}
    _, float32, _ = train(gradtx.identity(), wide_params)
    found = {}
    for name in ("master", "master_32", "master_24", "compensated", "compensated_32"):
        tx, rounded, state = train(STAGES[name], params)
        found[name] = wide(gradtx.master_parameters(tx, state, rounded)["w"])
        if name.startswith("master"):
            ties = "even" if name == "master" else "up"
            assert_same(rounded["w"], Grid(jnp.bfloat16).nearest(found[name], ties=ties))
    size = np.abs(wide(float32["w"])) + 0.02  # weight decay sees the rounded parameters: 1e-4 * 1e-3 * 2**-9 a step
    for name, digits in {
        "master": 21,
        "master_32": 21,
        "master_24": 12,
        "compensated": 12,
        "compensated_32": 20,
    }.items():
        assert (np.abs(found[name] - wide(float32["w"])) / size).max() < 2.0**-digits, name
    np.testing.assert_array_equal(found["master"], found["master_32"])


def test_a_restart_copies_the_parameters_that_landed():
    tx = gradtx.restart_every(gradtx.chain(gradtx.sgd(1e-3), gradtx.master_weights()), 2)
    params, state = {"w": PARAMS["kernel"]}, tx.init({"w": PARAMS["kernel"]})
    for whole in (False, True):
        params, state = gradtx.step(tx, params, state, {"w": GRADS[0]["kernel"]}, donate=False)
        (master,) = rounding_slots(state)
        assert bool((wide(master) == wide(params["w"])).all()) == whole


def test_hypergradients_pass_straight_through():
    params = {"w": jnp.ones(4, jnp.bfloat16)}

    def moved(stages):
        def loss(rate):
            tx = gradtx.chain(gradtx.sgd(rate), *stages)
            updates, _ = tx.update(params, tx.init(params), params)
            return jnp.sum(updates["w"].astype(jnp.float32))

        return jax.grad(loss)(0.01)

    for name in ("stochastic", "compensated", "master_24"):
        stage = STAGES[name]
        assert moved([stage]) == moved([]) == -4


# ---- what is refused ----


@EVERY
def test_nothing_may_write_behind_it(name):
    stage = STAGES[name]
    label = type(stage).__name__
    two = gradtx.chain(stage, gradtx.compensated())
    for tx in (
        gradtx.chain(optimizer(), stage, gradtx.scale(2.0)),
        gradtx.chain(gradtx.by_path({"**": gradtx.chain(optimizer(), stage)}), gradtx.clip_by_global_norm(1.0)),
        gradtx.chain(stage, optax.scale(2.0)),
        gradtx.chain(gradtx.scope(optimizer(), stage), gradtx.scale(2.0)),
        gradtx.lookahead(gradtx.chain(optimizer(), stage), 5, 0.5),
        two,
    ):
        with pytest.raises(ValueError, match=f"stands behind {label} and would change .* put {label} last"):
            tx.init(PARAMS)
    behind_a_wrapper = gradtx.chain(gradtx.skip_nonfinite(gradtx.chain(optimizer(), stage)), gradtx.scale(2.0))
    with pytest.raises(ValueError, match="scale stands behind Wrapped"):
        behind_a_wrapper.init(PARAMS)
    with pytest.raises(ValueError, match="divide_by_curvature changes the updates of what is inside"):
        gradtx.divide_by_curvature(gradtx.chain(optimizer(), stage), gradtx.identity())


def test_arguments():
    for wrong in (1.0, True, "seed", None):
        with pytest.raises(TypeError, match="stochastic_rounding"):
            gradtx.stochastic_rounding(wrong)
    for wrong in (16, 8, True, "24"):
        with pytest.raises(ValueError, match="expected None, 24 or 32"):
            gradtx.master_weights(wrong)
    for wrong in ("int8", "complex64", "half a byte"):
        with pytest.raises(TypeError, match="compensated"):
            gradtx.compensated(wrong)
    tx = gradtx.chain(gradtx.sgd(0.1), gradtx.master_weights())
    with pytest.raises(ValueError, match="master_weights needs the parameters"):
        tx.update(GRADS[0], tx.init(PARAMS))
    with pytest.raises(ValueError, match="no master_weights or compensated"):
        gradtx.master_parameters(optimizer(), optimizer().init(PARAMS), PARAMS)
    with pytest.raises(TypeError, match=r"leaf bias: slot 'master' holds what rounding takes from parameters"):
        gradtx.with_storage(tx, master="bfloat16", min_size=1).init(PARAMS)


def test_equinox_s_apply_makes_float32_of_parameters_and_gradtx_s_does_not():
    tx = gradtx.chain(gradtx.sgd(0.1), gradtx.stochastic_rounding())
    params = PARAMS["kernel"]
    updates, _ = tx.update(params, tx.init(params), params)
    with jax.numpy_dtype_promotion("standard"):
        assert eqx.apply_updates(params, updates).dtype == jnp.float32
    assert gradtx.apply_updates(params, updates).dtype == jnp.bfloat16
