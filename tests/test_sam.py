"""Sharpness-aware minimization: its two modes, and normalized updates of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

START = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}


def loss(params):
    return jnp.sum(params["a"] ** 4) + jnp.sum(jnp.cos(params["a"]) * params["b"]) ** 2


def grad_fn(params, i=0):
    return jax.grad(loss)(params)


def make(**keywords):
    return gradtx.sam(gradtx.adam(0.01), gradtx.chain(gradtx.normalize(), gradtx.sgd(0.05)), **keywords)


@pytest.mark.parametrize("period", [1, 2, 3])
def test_one_opaque_step_is_a_round_of_steps(period):
    plain, opaque = make(sync_period=period), make(sync_period=period, opaque_mode=True)
    params, state = START, plain.init(START)
    expected, other = START, opaque.init(START)
    for _ in range(4):
        for _ in range(period):
            updates, state = plain.update(grad_fn(params), state, params)
            params = gradtx.apply_updates(params, updates)
        updates, other = opaque.update(grad_fn(expected), other, expected, grad_fn=grad_fn)
        expected = gradtx.apply_updates(expected, updates)
        for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
    assert int(other.opt_state.count) == int(state.opt_state.count) == 4
    assert loss(params) < loss(START)


def test_a_period_of_one_is_the_optimizer_alone():
    """Optax's steps from where training began, since its cache is a call late."""
    tx = make(sync_period=1)
    updates, _ = tx.update(grad_fn(START), tx.init(START), START)
    expected, _ = gradtx.adam(0.01).update(grad_fn(START), gradtx.adam(0.01).init(START), START)
    assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True))


def test_opaque_inside_a_jitted_step():
    tx = gradtx.chain(gradtx.clip(10.0), make(opaque_mode=True))

    @jax.jit
    def step(params, state, shift):
        gradient = lambda p, i: jax.grad(lambda p: loss(p) + shift * p["b"])(p)  # noqa: E731
        updates, state = tx.update(gradient(params, 0), state, params, grad_fn=gradient)
        return gradtx.apply_updates(params, updates), state

    params, state = START, tx.init(START)
    for i in range(3):
        params, state = step(params, state, jnp.float32(i))
    assert loss(params) < loss(START)


def test_what_is_missing_is_named():
    tx = make(opaque_mode=True)
    with pytest.raises(TypeError, match="needs the keyword grad_fn="):
        tx.update(START, tx.init(START), START)
    with pytest.raises(ValueError, match="sam needs the parameters"):
        make().update(START, make().init(START))
    with pytest.raises(ValueError, match="sync_period"):
        make(sync_period=0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e38])
def test_normalized_whatever_the_size(scale):
    tree = {"a": jnp.full(4, 3.0) * scale, "b": jnp.zeros(2), "c": jnp.float32(-1.0) * scale}
    updates, _ = gradtx.normalize().update(tree, gradtx.normalize().init(tree))
    np.testing.assert_allclose(updates["a"], 3 / 37**0.5, rtol=1e-6)
    np.testing.assert_allclose(updates["c"], -1 / 37**0.5, rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0)
    assert np.isnan(optax.contrib.normalize().update(jnp.zeros(2), optax.EmptyState())[0]).all()


def test_an_infinite_update_makes_all_of_them_nan():
    tree = {"a": jnp.array([jnp.inf, 1.0]), "b": jnp.ones(2)}
    updates, _ = gradtx.normalize().update(tree, gradtx.normalize().init(tree))
    assert all(np.isnan(x).all() for x in jax.tree.leaves(updates))
