"""Random stages: the distribution of their noise, and what it depends on. Polyak's step size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradtx

SIZE = 200_000


def noise(tx, params, steps=1):
    """What is added to gradients of zero at each step."""
    zeros, state, found = jax.tree.map(jnp.zeros_like, params), tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update(zeros, state, params)
        found.append(updates)
    return found


def test_mean_variance_and_shape_of_the_noise():
    eta, gamma = 0.25, 2.0
    for t, x in enumerate(noise(gradtx.add_noise(eta, gamma), jnp.zeros((SIZE,)), 3), start=1):
        deviation = (eta / t**gamma) ** 0.5
        x = np.asarray(x, np.float64) / deviation
        assert abs(x.mean()) < 5 / SIZE**0.5
        assert abs(x.var() - 1) < 5 * (2 / SIZE) ** 0.5
        assert abs((x**3).mean()) < 5 * (15 / SIZE) ** 0.5
        assert abs((x**4).mean() - 3) < 5 * (96 / SIZE) ** 0.5
        for beyond, share in [(1, 0.317311), (2, 0.045500), (3, 0.0026998)]:
            assert abs((np.abs(x) > beyond).mean() - share) < 5 * (share / SIZE) ** 0.5


def test_parts_of_complex_noise_have_half_the_variance():
    (x,) = noise(gradtx.add_noise(1.0, 0.5), jnp.zeros((SIZE,), jnp.complex64))
    assert abs(np.real(x).var() - 0.5) < 0.01
    assert abs(np.imag(x).var() - 0.5) < 0.01
    assert abs(np.mean(np.real(x) * np.imag(x))) < 0.01


def test_steps_leaves_elements_and_keys_are_independent():
    tree = {"a": jnp.zeros((SIZE,)), "b": jnp.zeros((SIZE,))}
    first, second = noise(gradtx.add_noise(1.0, 0.0, key=3), tree, 2)
    (other,) = noise(gradtx.add_noise(1.0, 0.0, key=4), tree)
    series = [first["a"], first["b"], second["a"], second["b"], other["a"], other["b"], jnp.roll(first["a"], 1)]
    correlation = np.corrcoef(np.stack(series)) - np.eye(len(series))
    assert np.abs(correlation).max() < 5 / SIZE**0.5


@pytest.mark.parametrize("spec", [("data", "model"), ("model", None), (None, ("data", "model"))])
def test_the_same_on_every_layout(spec):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    tx, params = gradtx.noisy_sgd(0.1), jnp.ones((16, 8))
    grads = jnp.ones((16, 8))
    expected, _ = tx.update(grads, tx.init(params), params)
    where = NamedSharding(mesh, PartitionSpec(*spec))
    params, grads = jax.device_put(params, where), jax.device_put(grads, where)
    for update in (tx.update, jax.jit(tx.update)):
        updates, _ = update(grads, tx.init(params), params)
        np.testing.assert_allclose(updates, expected, rtol=1e-6)


def test_nothing_else_matters():
    """Not the gradient, the dtype of the parameter, its neighbours behind it, nor the stages around."""
    alone = noise(gradtx.add_noise(1.0, 0.5), {"a": jnp.zeros((7,))})[0]["a"]
    crowd = noise(gradtx.add_noise(1.0, 0.5), {"a": jnp.zeros((7,)), "b": jnp.zeros((3, 4))})[0]["a"]
    half = noise(gradtx.add_noise(1.0, 0.5), {"a": jnp.zeros((7,), jnp.bfloat16)})[0]["a"]
    chained = noise(gradtx.chain(gradtx.clip(1.0), gradtx.add_noise(1.0, 0.5)), {"a": jnp.zeros((7,))})[0]["a"]
    np.testing.assert_array_equal(alone, crowd)
    np.testing.assert_array_equal(alone, chained)
    np.testing.assert_array_equal(alone.astype(jnp.bfloat16), half)


def test_a_resumed_run_draws_what_it_would_have_drawn():
    tx, params = gradtx.add_noise(1.0, 0.5), jnp.zeros((5,))
    three = noise(tx, params, 3)[-1]
    state = tx.init(params)._replace(count=jnp.int32(2))
    np.testing.assert_array_equal(tx.update(params, state, params)[0], three)


def test_keys():
    plain = gradtx.add_noise(1.0, 0.5, key=7)
    assert gradtx.add_noise(1.0, 0.5) == gradtx.add_noise(1.0, 0.5, key=0)
    assert gradtx.add_noise(1.0, 0.5, seed=7) == plain
    assert gradtx.noisy_sgd(0.1, seed=7) == gradtx.noisy_sgd(0.1, key=7)
    params = jnp.zeros((5,))
    for key in (jax.random.key(7), jax.random.PRNGKey(7)):
        tx = gradtx.add_noise(1.0, 0.5, key=key)
        assert eval(repr(tx), vars(gradtx)) == tx
        np.testing.assert_array_equal(noise(tx, params), noise(plain, params))
    with pytest.raises(ValueError, match="got both"):
        gradtx.add_noise(1.0, 0.5, key=1, seed=2)
    for wrong in (1.0, True, "seed", jnp.zeros((2,))):
        with pytest.raises(TypeError, match="key"):
            gradtx.add_noise(1.0, 0.5, key=wrong)
    with pytest.raises(TypeError, match="traced"):
        jax.jit(lambda key: gradtx.add_noise(1.0, 0.5, key=key))(jax.random.key(0))


# Polyak's step size


def loss(x):
    return jnp.sum(jnp.square(x)) + 1.0


def descend(tx, steps, **keywords):
    params = jnp.array([3.0, -2.0, 1.0])
    state = tx.init(params)
    for _ in range(steps):
        value, grads = jax.value_and_grad(loss)(params)
        params, state = gradtx.step(tx, params, state, grads, value=value, **keywords)
    return params


def test_polyak_halves_a_quadratic_at_every_step():
    np.testing.assert_allclose(descend(gradtx.polyak_sgd(f_min=1.0), 1), [1.5, -1.0, 0.5], rtol=1e-6)
    # What is left is the loss's own rounding: its value of 1 hides differences of 1e-7.
    assert np.abs(descend(gradtx.polyak_sgd(f_min=1.0), 40)).max() < 1e-3


def test_polyak_s_limit_and_other_keywords():
    limited = descend(gradtx.polyak_sgd(0.125, f_min=1.0), 1, other=1.0)
    np.testing.assert_allclose(limited, [2.25, -1.5, 0.75], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_polyak_with_gradients_whose_squares_are_no_numbers(scale):
    tx, params = gradtx.polyak_sgd(max_learning_rate=1e30), jnp.ones((3,))
    grads = scale * jnp.array([1.0, 2.0, 2.0])
    updates, _ = tx.update(grads, tx.init(params), params, value=3.0 * scale)
    np.testing.assert_allclose(updates, [-1 / 3, -2 / 3, -2 / 3], rtol=1e-6)


def test_polyak_asks_for_the_value():
    tx, params = gradtx.polyak_sgd(), jnp.ones((3,))
    with pytest.raises(TypeError, match=r"scale_by_polyak needs the keyword value=.*did you mean value="):
        tx.update(params, tx.init(params), params, valeu=1.0)
    with pytest.raises(ValueError, match="scalar"):
        tx.update(params, tx.init(params), params, value=jnp.ones((2,)))
    with pytest.raises(ValueError, match="variant"):
        gradtx.polyak_sgd(variant="sps++")


def test_polyak_inside_optax_s_chain():
    tx, params = optax.chain(optax.clip(10.0), gradtx.polyak_sgd(f_min=1.0)), jnp.array([3.0, -2.0, 1.0])
    updates, _ = tx.update(2 * params, tx.init(params), params, value=loss(params))
    np.testing.assert_allclose(updates, -params / 2, rtol=1e-6)


@pytest.mark.parametrize("between", [[], [gradtx.clip(0.1)]], ids=["right-before", "clipped-between"])
def test_polyak_takes_the_norm_of_what_it_is_given(between):
    """It takes a scaled gradient apart, but only where nothing stands between the scaling and itself."""
    grads = {"a": jnp.asarray([3.0, -4.0]), "b": jnp.asarray([[12.0]])}
    ours = gradtx.chain(gradtx.scale(-0.25), *between, gradtx.scale_by_polyak(max_learning_rate=1e9))
    theirs = optax.chain(
        optax.scale(-0.25),
        *([optax.clip(0.1)] if between else []),
        optax.scale_by_polyak(max_learning_rate=1e9),
    )
    found, _ = jax.jit(ours.update)(grads, ours.init(grads), grads, value=2.0)
    with jax.numpy_dtype_promotion("standard"):
        expected, _ = theirs.update(grads, theirs.init(grads), grads, value=2.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


@pytest.mark.parametrize(("factor", "size"), [(1e-10, 3e38), (0.0, 3e38), (1e10, 3e-38), (0.5, 2.0)])
def test_polyak_behind_a_scaling_of_gradients_whose_norm_is_no_number(factor, size):
    """The norm of what it is given is one: the scaling goes in before the sums are put together."""
    grads = jnp.full((19,), size, jnp.float32)
    tx = gradtx.chain(gradtx.scale(factor), gradtx.scale_by_polyak(max_learning_rate=1e30))
    found, _ = jax.jit(tx.update)(grads, tx.init(grads), grads, value=1.0)
    scaled = float(np.float32(factor)) * np.asarray(grads, np.float64)
    norm = np.sqrt(np.sum(scaled**2))
    np.testing.assert_allclose(found, scaled * min(1 / norm**2, 1e30) if norm else 0 * scaled, rtol=1e-6)
