"""At the ends of a float's range: squares that overflow, gradients that are not finite, subnormal slots."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx._core import factors, rarely

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("make", [gradtx.rmsprop, gradtx.adam, gradtx.novograd])
@pytest.mark.parametrize("size", [1.5e19, 1e20, 3e38])
def test_a_huge_complex_gradient_steps_as_far_as_an_ordinary_one(make, size):
    tx = make(0.1)
    small, huge = (jnp.array([x], jnp.complex64) for x in (1.0, size))
    expected, found = (tx.update(g, tx.init(g), g)[0] for g in (small, huge))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "make", [gradtx.rmsprop, gradtx.adam, gradtx.novograd, gradtx.yogi, gradtx.amsgrad, gradtx.adopt, gradtx.adan]
)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("step", [1, 3])
def test_a_gradient_that_is_not_finite_is_seen_in_the_update(make, bad, step):
    tx, g = make(0.1), jnp.array([1.0, 2.0])
    state = tx.init(g)
    for _ in range(step - 1):
        _, state = tx.update(g, state, g)
    updates, _ = tx.update(jnp.array([1.0, bad]), state, g)
    assert not np.isfinite(updates[1])


@pytest.mark.parametrize("bad", [np.inf, np.nan, 1j * np.inf])
def test_a_second_moment_does_not_forget_a_gradient_that_was_not_finite(bad):
    """A clip makes an ordinary update of it; that the next ones are none shows it."""
    behind = [] if isinstance(bad, complex) else [gradtx.clip(1.0)]
    tx = gradtx.chain(gradtx.ema_second_moment(0.9), gradtx.scale_by_rms(1e-8), *behind)
    g = jnp.array([1.0, bad])
    _, state = tx.update(g, tx.init(g), g)
    updates, _ = tx.update(jnp.ones_like(g), state, g)
    assert np.isfinite(updates[0])
    assert not np.isfinite(updates[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_hypergradients_pass_through_16_bit_slots(dtype, scale):
    """Below 6e-5 those of float16 are subnormal numbers, as most second moments are."""

    def loss(b1, mu_dtype):
        tx = gradtx.ema(0.5, debias=False, accumulator_dtype=mu_dtype).replace(b1=b1)
        state, total = tx.init(jnp.zeros(2)), 0.0
        for k in range(3):
            update, state = tx.update(scale * jnp.array([1.0, -3.0]) * (k + 1), state)
            total = total + jnp.sum(update * jnp.array([1.0, 2.0]))
        return total

    for derivative in (jax.grad, jax.jacfwd):
        found, expected = (derivative(loss)(0.5, x) for x in (dtype, None))
        np.testing.assert_allclose(found, expected, rtol=2e-2)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 1000])
@pytest.mark.parametrize("size", [1.0, 1e18, 1.8e19, 1e20, 3e38])
def test_a_mean_of_squares_whose_sum_overflows(count, size):
    """On a CPU in the branch that waits, elsewhere beside the plain sum."""
    x = np.linspace(0.5, 1, count, dtype=np.float32) * np.float32(size)
    largest = float(np.finfo(np.float32).max)
    expected = np.minimum(np.float64(x) ** 2, largest).mean()

    def at_once(x):
        plain = jnp.sum(jnp.square(x))
        return rarely.both(plain < jnp.inf, factors._mean_of_sum, factors._mean_of_large_squares, x, plain)

    for found in (factors.mean_of_squares(jnp.asarray(x)), at_once(jnp.asarray(x))):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_mean_of_squares_without_elements_and_of_what_is_not_finite():
    assert factors.mean_of_squares(jnp.zeros((0, 3))) == 0
    assert np.isnan(factors.mean_of_squares(jnp.array([jnp.nan, jnp.inf])))
    assert np.isnan(factors.mean_of_squares(jnp.array([1.0, jnp.inf])))
    assert np.isnan(factors.mean_of_squares(jnp.array([1.0, 1j * jnp.inf])))
    slope = jax.vmap(jax.grad(factors.mean_of_squares))(jnp.array([[0.0, 3.0], [1e20, 3.0]]))
    np.testing.assert_allclose(slope, [[0.0, 3.0], [0.0, 3.0]])


def test_a_decay_of_zero_reads_no_parameter_and_has_a_derivative():
    """An infinite parameter does not make the update NaN, and the decay can be learned from zero."""
    params = {"w": jnp.asarray([2.0, jnp.inf, -3.0])}
    grads = {"w": jnp.asarray([1.0, 1.0, 1.0])}

    def update(decay):
        tx = gradtx.chain(gradtx.decoupled_weight_decay(decay))
        return tx.update(grads, tx.init(params), params)[0]["w"]

    np.testing.assert_array_equal(jax.jit(update)(0.0), grads["w"])
    np.testing.assert_array_equal(jax.jacfwd(update)(0.0), params["w"])
