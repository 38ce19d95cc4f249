"""Sophia with Hutchinson's estimate of the curvature."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCALES = jnp.array([1.0, 10.0, 0.1])


def loss(params):
    return 0.5 * jnp.sum(SCALES * params["w"] ** 2)


def test_same_as_optax_where_the_hessian_is_diagonal():
    """There the estimate is exact, whatever the signs."""
    ours, theirs = (lib.sophia(0.1, gamma=0.5, update_interval=2) for lib in (gradtx, optax.contrib))
    params = expected = {"w": jnp.array([1.0, -2.0, 3.0])}
    state, other = ours.init(params), theirs.init(params)
    for _ in range(8):
        updates, state = ours.update(jax.grad(loss)(params), state, params, obj_fn=loss)
        params = gradtx.apply_updates(params, updates)
        with jax.numpy_dtype_promotion("standard"):
            updates, other = theirs.update(jax.grad(loss)(expected), other, expected, obj_fn=loss)
        expected = gradtx.apply_updates(expected, updates)
    np.testing.assert_allclose(params["w"], expected["w"], rtol=1e-5)


def test_the_estimate_is_right_in_the_mean():
    rng = np.random.default_rng(0)
    hessian = jnp.asarray(rng.standard_normal((4, 4)), jnp.float32)
    hessian = hessian + hessian.T
    obj_fn = lambda x: 0.5 * x @ hessian @ x  # noqa: E731
    tx, x = gradtx.hutchinson_estimator_diag_hessian(jax.random.key(3)), jnp.ones(4)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: tx.update(x, s, x, obj_fn=obj_fn)[::-1], s, None, length=4000))
    state, estimates = run(tx.init(x))
    np.testing.assert_allclose(jnp.mean(estimates, 0), jnp.diag(hessian), atol=0.2)
    assert int(state.stages[0]["draws"]) == 4000


def test_a_loss_of_the_batch_inside_a_jitted_step():
    tx = gradtx.sophia(0.05, gamma=1.0, update_interval=3)

    @jax.jit
    def step(params, state, batch):
        objective = lambda p: loss(p) * batch  # noqa: E731
        updates, state = tx.update(jax.grad(objective)(params), state, params, obj_fn=objective)
        return gradtx.apply_updates(params, updates), state

    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    for _ in range(10):
        params, state = step(params, state, jnp.float32(2.0))
    assert loss(params) < 0.5 * loss({"w": jnp.ones(3)})


def test_the_win_rate_is_printed(capfd):
    tx = gradtx.sophia(0.1, verbose=True, print_win_rate_every_n_steps=2)
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update(params, state, params, obj_fn=loss)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("win rate") == 2


def test_what_is_missing_is_named():
    tx, params = gradtx.sophia(0.1), {"w": jnp.ones(3)}
    with pytest.raises(TypeError, match="needs the keyword obj_fn="):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="update_interval"):
        gradtx.sophia(0.1, update_interval=0)
