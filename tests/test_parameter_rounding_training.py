"""bfloat16 parameters, learning rates at which rounding to nearest stalls: losses within 5% of float32's."""

import jax
import jax.numpy as jnp
import numpy as np

import gradtx

STEPS = 6000


def problem():
    """Noisy least squares at 1e-3, and a small network of made-up classes at 1e-4, trained side by side."""
    rng = np.random.default_rng(0)

    def draw(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    x, images = draw(256, 32), draw(256, 16)
    y = x @ draw(32) + draw(256)
    labels = jax.nn.one_hot(jnp.argmax(images @ draw(16, 10) + draw(256, 10, scale=2), 1), 10)
    params = {
        "squares": draw(32),
        "network": {"in": draw(16, 32, scale=0.35), "out": draw(32, 10, scale=0.25)},
    }

    def losses(params):
        params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        logits = jnp.tanh(images @ params["network"]["in"]) @ params["network"]["out"]
        entropy = -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), 1))
        return jnp.stack([jnp.mean((x @ params["squares"] - y) ** 2), entropy])

    return params, losses


def final(stages, dtype):
    params, losses = problem()
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    groups = gradtx.by_path({"squares": gradtx.adam(1e-3), "network/**": gradtx.adam(1e-4)})
    tx = gradtx.chain(groups, *stages)

    def body(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(lambda p: losses(p).sum())(params), state, params)
        return (gradtx.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=STEPS))((params, tx.init(params)))
    return np.asarray(losses(params))


def test_16_bit_parameters_end_where_float32_ones_do():
    first = np.asarray(problem()[1](problem()[0]))
    float32 = final([], jnp.float32)
    nearest = final([], jnp.bfloat16)
    assert (float32 < 0.75 * first).all(), (float32, first)
    assert (nearest > 1.2 * float32).all(), (nearest, float32)  # it stalls
    for stage in (
        gradtx.stochastic_rounding(),
        gradtx.compensated(),
        gradtx.master_weights(),
        gradtx.master_weights(24),
    ):
        np.testing.assert_allclose(final([stage], jnp.bfloat16), float32, rtol=0.05, err_msg=repr(stage))
