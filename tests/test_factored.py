"""Second moments in less than a matrix: against Optax's own, on extreme gradients, and over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from reference.adafactor import Adafactor

import gradtx
from gradtx._core.plan import linear


def run_both(tx, reference, shape, steps=100):
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    grads = jnp.asarray(rng.standard_normal((steps, *shape)), jnp.float32)

    def run(tx):
        return jax.lax.scan(lambda s, g: tx.update(g, s, params)[::-1], tx.init(params), grads)[1]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = run(reference)
    return run(tx), expected


@pytest.mark.parametrize("shape", [(128, 130), (130, 128), (2, 128, 128), (128, 2, 129), (127, 200), (300,)])
def test_optax_s_adafactor(shape):
    keywords = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay_rate": 1e-3}
    found, expected = run_both(gradtx.adafactor(**keywords), optax.adafactor(**keywords), shape, 20)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scales", [(0.0, 1e-28, 1e20), (1e-20, 1.0, 1e19), (1e18, 3e18, 2e18)])
@pytest.mark.parametrize("turned", [False, True])
def test_rows_of_extreme_sizes(scales, turned):
    """Neither a product nor a mean of squares over- or underflows where the update does not."""
    base = np.array([1.0, -1.5, 0.5, 2.0, -0.75])
    grads = np.clip(np.outer(scales, base), -1.8446742e19, 1.8446742e19)
    grads = grads.T if turned else grads
    params = np.ones_like(grads)
    tx = gradtx.adafactor(0.1, min_dim_size_to_factor=3)
    state, oracle = tx.init(jnp.asarray(params, jnp.float32)), Adafactor(0.1, min_dim_size_to_factor=3)
    for _ in range(3):
        found, state = tx.update(jnp.asarray(grads, jnp.float32), state, jnp.asarray(params, jnp.float32))
        expected = oracle.update(grads, params)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-30)


def test_an_infinite_gradient_shows():
    tx = gradtx.adafactor(0.1, min_dim_size_to_factor=3)
    params = jnp.ones((3, 4))
    updates, _ = tx.update(params.at[1, 2].set(jnp.inf), tx.init(params), params)
    assert np.isnan(updates).all()


def test_which_leaf_keeps_what():
    tree = {"wide": jnp.ones((3, 128, 200)), "small": jnp.ones((127, 200)), "bias": jnp.ones((200,))}
    (moment,) = [entry for entry in gradtx.adafactor().init(tree).stages if entry]
    shapes = jax.tree.map(lambda x: x.shape, moment, is_leaf=lambda x: isinstance(x, jax.Array))
    masked = optax.MaskedNode()
    assert shapes["nu_row"] == {"wide": (3, 128), "small": masked, "bias": masked}
    assert shapes["nu_col"] == {"wide": (3, 200), "small": masked, "bias": masked}
    assert shapes["nu"] == {"wide": masked, "small": (127, 200), "bias": (200,)}


def test_before_the_offset_the_last_gradient_counts():
    tx, plain = (gradtx.scale_by_factored_rms(step_offset=n) for n in (3, 0))
    params = jnp.ones((4,))
    state = tx.init(params)
    for i in range(3):
        updates, state = tx.update(samples.grads_like(params, i), state, params)
        np.testing.assert_allclose(np.abs(updates), 1.0, rtol=1e-6)
    fresh = plain.init(params)
    for i in range(5):
        grads = samples.grads_like(params, i)
        updates, state = tx.update(grads, state, params)
        expected, fresh = plain.update(grads, fresh, params)
        np.testing.assert_array_equal(updates, expected)


def test_another_rule_for_the_decay():
    def capped(step, exponent):
        return jnp.minimum(0.5, 1 - (step + 1.0) ** -exponent)

    ours = gradtx.scale_by_factored_rms(min_dim_size_to_factor=3, decay_rate_fn=capped)
    theirs = optax.scale_by_factored_rms(min_dim_size_to_factor=3, decay_rate_fn=capped)
    found, expected = run_both(ours, theirs, (3, 4), 10)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("value", [-1, 2.0, True])
def test_a_size_that_is_none(value):
    with pytest.raises(ValueError, match="min_dim_size_to_factor"):
        gradtx.adafactor(min_dim_size_to_factor=value)


@pytest.mark.parametrize("jitted", [False, True])
def test_a_moment_that_is_kept_whole_is_sharded_as_its_parameter(jitted):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "model"))
    sharded = NamedSharding(mesh, PartitionSpec("data", "model"))
    tree = jax.device_put(jnp.ones((4, 8)), sharded)
    tx = gradtx.adafactor()
    state = (jax.jit(tx.init) if jitted else tx.init)(tree)
    assert state.stages[0]["nu"].sharding.is_equivalent_to(sharded, 2)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("spec", [(None, "data", "model"), (None, "data", None), ("model", None, "data")])
@pytest.mark.parametrize("tx", [gradtx.adafactor(0.1), gradtx.scale_by_lbfgs(3)], ids=["adafactor", "lbfgs"])
def test_factored_slots_are_sharded_along_their_axes(tx, spec, jitted):
    """And so the second step does not compile again, and a memory of many copies does not start on every device."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    where = PartitionSpec(*spec)
    tree = jax.device_put(jnp.ones((2, 128, 256)), NamedSharding(mesh, where))
    state = (jax.jit(tx.init) if jitted else tx.init)(tree)
    slots = linear(tx)[0].slots()
    for slot in slots:
        if slot.axes is not None:
            along = PartitionSpec(*[None if a is None else where[a] for a in slot.axes(tree.shape)])
            array = state.stages[0][slot.name]
            assert array.sharding.is_equivalent_to(NamedSharding(mesh, along), array.ndim), slot.name
    step = jax.jit(tx.update)
    for _ in range(3):
        _, state = step(tree, state, tree)
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", ["adafactor", "novograd", "sm3", "noisy_sgd"])
def test_a_mesh_with_explicit_axes(name):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    tx = getattr(gradtx, name)(0.1)
    plain = jnp.ones((128, 256))
    expected, _ = tx.update(plain, tx.init(plain), plain)
    with jax.set_mesh(mesh):
        tree = jax.device_put(plain, NamedSharding(mesh, PartitionSpec("data", "model")))
        state, step = tx.init(tree), jax.jit(tx.update)
        updates, state = step(tree, state, tree)
        np.testing.assert_allclose(updates, expected, rtol=1e-5)
        assert updates.sharding.spec == PartitionSpec("data", "model")
        step(tree, state, tree)
    assert step._cache_size() == 1


def test_hypergradients_of_what_is_added_to_a_factored_root():
    """Where nothing is added, the quotient is made of products; its derivative by what might be is that of the quotient."""
    params = jnp.ones((4, 6))
    grads = jnp.asarray(np.random.default_rng(3).standard_normal((4, 6)), jnp.float32)

    def update(eps, eps_root):
        moment = gradtx.factored_second_moment(min_dim_size_to_factor=1)
        tx = gradtx.chain(moment, gradtx.scale_by_rms(eps=eps, eps_root=eps_root))
        return tx.update(grads, tx.init(params), params)[0]

    at_zero, near = update(0.0, 0.0), update(1e-30, 1e-30)
    np.testing.assert_allclose(at_zero, near, rtol=1e-6)
    root = grads / at_zero
    slopes = jax.jacfwd(update, (0, 1))(0.0, 0.0)
    np.testing.assert_allclose(slopes[0], -grads / root**2, rtol=1e-5)
    np.testing.assert_allclose(slopes[1], -grads / (2 * root**3), rtol=1e-5)
