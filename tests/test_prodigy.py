"""Prodigy: that it finds its learning rate, whatever the units."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

CURVATURE = jnp.logspace(0, -2, 20)


def train(tx, target, scale=1.0, steps=200):
    """Parameters and state after training on a quadratic around a target, the loss multiplied by a scale."""
    params = jnp.zeros_like(target)
    curvature = (CURVATURE * scale).astype(target.dtype)

    def body(_, carry):
        params, state = carry
        updates, state = tx.update(curvature * (params - target), state, params)
        return gradtx.apply_updates(params, updates), state

    return jax.jit(lambda c: jax.lax.fori_loop(0, steps, body, c))((params, tx.init(params)))


@pytest.mark.parametrize("distance", [1e-3, 1.0, 1e3])
def test_the_estimate_is_of_the_size_of_the_distance(distance):
    params, state = train(gradtx.prodigy(), jnp.full(20, distance))
    np.testing.assert_allclose(params, distance, rtol=1e-2)
    assert 0.1 * distance < optax.tree.get(state, "estim_lr") < 10 * distance


@pytest.mark.parametrize("scale", [1e-15, 1e10, 1e16])
def test_the_scale_of_the_loss_does_not_matter(scale):
    """The squares of d g would be 1e-42 or 1e38."""
    params, state = train(gradtx.prodigy(eps=0.0), jnp.full(20, 3.0), scale)
    expected, other = train(gradtx.prodigy(eps=0.0), jnp.full(20, 3.0))
    np.testing.assert_allclose(params, expected, rtol=1e-3)
    np.testing.assert_allclose(optax.tree.get(state, "estim_lr"), optax.tree.get(other, "estim_lr"), rtol=1e-3)


def test_complex_parameters():
    target = jnp.full(20, 3.0 + 4.0j)
    with jax.numpy_dtype_promotion("standard"):
        params, _ = train(gradtx.prodigy(), target)
    np.testing.assert_allclose(params, target, rtol=1e-2)


def test_the_estimate_is_float32_beside_bfloat16_parameters():
    state = gradtx.prodigy().init(jnp.zeros(3, jnp.bfloat16))
    assert optax.tree.get(state, "estim_lr").dtype == jnp.float32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"betas": 0.9}, "expected a pair"),
        ({"betas": (0.9, lambda count: 0.9)}, "got the schedule"),
        ({"betas": (lambda count: 0.9, 0.9)}, "got the schedule"),
        ({"estim_lr0": 0.0}, "expected a number > 0"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gradtx.prodigy(**wrong)
