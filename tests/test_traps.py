"""The traps of the peers, each reproduced in Optax or PyTorch, and not in gradtx.

Numbers refer to the list in the design notes; those that hold for every transformation (4, 5, 13, 15) are contracts
(test_contracts.py), those about bad input (1, 11, 12, 16, 17, 18, 19) are errors (test_errors.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import schedules


def nu_after(tx, grads):
    state, _ = jax.lax.scan(lambda s, g: (tx.update(g, s, g)[1], None), tx.init(grads[0]), grads)
    return float(optax.tree.get(state, "nu")) * -np.expm1(len(grads) * np.log1p(-0.001))


def test_2_second_moment_of_bf16_parameters_does_not_stick():
    one = jnp.ones((), jnp.bfloat16)
    assert nu_after(gradtx.adam(1e-3), jnp.full(5000, 1, one.dtype)) == pytest.approx(0.99328, abs=1e-4)
    # After 300 gradients of 10 it decays again.
    high = nu_after(gradtx.adam(1e-3), jnp.full(300, 10, one.dtype))
    later = nu_after(gradtx.adam(1e-3), jnp.repeat(jnp.array([10, 0], one.dtype), jnp.array([300, 1000])))
    assert later == pytest.approx(high * 0.999**1000, rel=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_4_small_float16_gradients(dtype):
    # g = 1e-3 in float16 gives -inf in optax.adam.
    p = jnp.ones(3, dtype)
    tx = gradtx.adam(1e-2)
    updates, _ = tx.update(p * 1e-3, tx.init(p), p)
    np.testing.assert_allclose(np.asarray(updates, np.float32), -0.01, rtol=5e-3)


def test_6_global_norm_is_summed_in_float32():
    many = [jnp.ones((), jnp.bfloat16)] * 1000
    assert float(gradtx.global_norm(many)) == pytest.approx(np.sqrt(1000), rel=1e-6)
    clip = gradtx.clip_by_global_norm(1.0)
    clipped, _ = clip.update(many[:400], clip.init(many))
    assert float(clipped[0]) == pytest.approx(1 / 20, rel=4e-3)


@pytest.mark.parametrize(
    ("value", "size", "dtype"),
    [(30.0, 1000, jnp.float16), (1e20, 4, jnp.float32), (3e38, 5, jnp.float32), (1e30, 1, jnp.float32)],
)
def test_6_large_norms_do_not_overflow(value, size, dtype):
    g = jnp.full(size, value, dtype)
    clip = gradtx.clip_by_global_norm(1.0)
    clipped, _ = clip.update(g, clip.init(g))
    np.testing.assert_allclose(np.asarray(clipped, np.float64), size**-0.5, rtol=1e-3 if dtype == jnp.float16 else 1e-6)


def test_norm_of_nothing_and_of_zero():
    assert float(gradtx.global_norm([])) == 0.0
    clip = gradtx.clip_by_global_norm(1.0)
    zero = jnp.zeros(3)
    np.testing.assert_array_equal(clip.update(zero, clip.init(zero))[0], zero)
    np.testing.assert_array_equal(clip.replace(max_norm=0.0).update(zero, clip.init(zero))[0], zero)
    assert clip.update({}, clip.init({}))[0] == {}


@pytest.mark.parametrize("bad", [jnp.inf, -jnp.inf, jnp.nan])
def test_7_a_norm_that_is_not_finite_shows_everywhere(bad):
    g = {"a": jnp.array([1.0, bad]), "b": jnp.ones(3)}
    clip = gradtx.clip_by_global_norm(1.0)
    clipped, _ = clip.update(g, clip.init(g))
    assert all(np.isnan(x).all() for x in jax.tree.leaves(clipped))


@pytest.mark.parametrize("bad", [jnp.inf, -jnp.inf, jnp.nan])
@pytest.mark.parametrize(
    "tx", [gradtx.adam(0.1), gradtx.rmsprop(0.1), gradtx.adagrad(0.1)], ids=["adam", "rmsprop", "adagrad"]
)
def test_infinite_gradients_are_not_hidden_by_the_clamp(tx, bad):
    g = jnp.array([bad, 1.0])
    updates, _ = tx.update(g, tx.init(g), g)
    assert not np.isfinite(updates[0])
    assert np.isfinite(updates[1])


def test_19_no_epsilon():
    p = jnp.array([0.0, 1e-28, -3.0])
    for tx in (gradtx.adam(0.1, eps=0.0), gradtx.rmsprop(0.1, eps=0.0, bias_correction=True)):
        updates, _ = tx.update(p, tx.init(p), p)
        np.testing.assert_allclose(updates, [0.0, -0.1, 0.1], rtol=1e-6)


def test_a_schedule_of_b1_is_corrected_by_its_own_weight():
    # On a constant gradient of 1 every average is 1; Optax divides by 1 - b_t**t and gives 2.07.
    tx = gradtx.ema(schedules.linear_schedule(0.5, 0.9, 20))
    one = jnp.ones(())
    state = tx.init(one)
    for _ in range(40):
        average, state = tx.update(one, state)
        assert float(average) == 1.0


def test_a_replaced_decay_keeps_averages_unbiased():
    tx = gradtx.ema(0.9)
    one = jnp.ones(())
    _, state = tx.update(one, tx.init(one))
    average, _ = tx.replace(b1=0.5).update(one, state)
    assert float(average) == 1.0


def test_one_huge_gradient_freezes_nothing():
    # Optax's and torch's second moment is infinite for ever after.
    tx = gradtx.adam(0.1, b2=0.9)
    g = jnp.array([1e20])
    state = tx.init(g)
    _, state = tx.update(g, state, g)
    update = jax.jit(tx.update)
    for _ in range(1100):
        updates, state = update(jnp.array([1.0]), state, g)
    np.testing.assert_allclose(updates, [-0.1], rtol=1e-4)


@pytest.mark.parametrize("b", [0.0, 0.1, 0.5])
def test_small_decays_do_not_lose_a_small_gradient_behind_a_large_one(b):
    for tx in (gradtx.ema(b, debias=False), gradtx.sgd(1.0, b), gradtx.adam(1.0, b1=b, b2=b, eps=0.0)):
        state = tx.init(jnp.zeros(1))
        for g in (1e8, 1.0):
            updates, state = tx.update(jnp.array([g]), state)
        m, v = b * 1e8 * (1 - b) + (1 - b), (1 - b) * (b * 1e16 + 1)
        exact = {"scope": m, "sgd": -(b * 1e8 + 1), "adam": -(m / (1 - b**2)) / np.sqrt(v / (1 - b**2))}
        name = "scope" if "scope" in repr(tx) else "sgd" if "trace" in repr(tx) else "adam"
        np.testing.assert_allclose(updates, [exact[name]], rtol=1e-6)


@pytest.mark.parametrize("name", ["b1", "b2"])
def test_a_schedule_may_begin_at_one(name):
    tx = gradtx.adam(0.1, **{name: schedules.linear_schedule(1.0, 0.9, 2)})
    one = jnp.ones(1)
    state = tx.init(one)
    for _ in range(5):
        updates, state = tx.update(one, state)
        assert np.isfinite(updates).all()
    np.testing.assert_allclose(updates, [-0.1], rtol=1e-5)


def test_hypergradients_at_zero_decay_and_second_derivatives_at_zero():
    def second(b):
        tx = gradtx.ema(b)
        _, state = tx.update(jnp.float32(1.0), tx.init(jnp.float32(0.0)))
        return tx.update(jnp.float32(2.0), state)[0]

    # (2 + b) / (1 + b) has the slope -1 at 0.
    assert float(jax.grad(second)(0.0)) == pytest.approx(-1.0, abs=1e-4)
    tx = gradtx.adam(0.1)
    state = tx.init(jnp.zeros(2))
    assert np.isfinite(jax.hessian(lambda g: tx.update(g, state)[0].sum())(jnp.zeros(2))).all()
