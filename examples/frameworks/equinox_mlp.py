"""equinox: the model and the transformation are both pytrees, so both are arguments of the jitted step."""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp

import gradtx


def loss_fn(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


@eqx.filter_jit
def train_step(tx, model, state, x, y):
    loss, grads = eqx.filter_value_and_grad(loss_fn)(model, x, y)
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    updates, state = tx.update(grads, state, params)
    # gradtx.apply_updates keeps the parameters' dtype, and checks that the trees fit.
    return eqx.combine(gradtx.apply_updates(params, updates), rest), state, loss


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps

    x = jax.random.uniform(jax.random.key(0), (256, 2), minval=-2.0, maxval=2.0)
    y = jnp.sin(x[:, :1]) * x[:, 1:]
    model = eqx.nn.MLP(2, 1, width_size=32, depth=1, activation=jnp.tanh, key=jax.random.key(1))
    tx = gradtx.adamw(1e-2, weight_decay=1e-3, mask=lambda path, leaf: leaf.ndim > 1)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    before = loss_fn(model, x, y)
    for step in range(steps):
        if step == steps // 2:
            tx = tx.replace(learning_rate=3e-3)  # data: nothing compiles again
        model, state, loss = train_step(tx, model, state, x, y)
    print(f"loss {before:.4f} -> {loss:.4f} with {tx}")
    assert loss < before, "the loss did not fall"


if __name__ == "__main__":
    main()
