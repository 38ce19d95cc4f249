"""flax.linen: `TrainState` takes a gradtx chain; biases get no weight decay, chosen by path."""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState

import gradtx


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, name="head")(jnp.tanh(nn.Dense(32, name="body")(x)))


@jax.jit
def train_step(ts, x, y):
    loss, grads = jax.value_and_grad(lambda params: jnp.mean((ts.apply_fn(params, x) - y) ** 2))(ts.params)
    return ts.apply_gradients(grads=grads), loss


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps

    x = jax.random.uniform(jax.random.key(0), (256, 2), minval=-2.0, maxval=2.0)
    y = jnp.sin(x[:, :1]) * x[:, 1:]
    model = MLP()
    params = model.init(jax.random.key(1), x)
    learning_rate = gradtx.schedules.warmup_cosine_decay_schedule(0.0, 1e-2, max(steps // 10, 1), decay_steps=steps + 1)
    tx = gradtx.by_path(
        {
            "**/bias": gradtx.adam(learning_rate),
            "**": gradtx.adamw(learning_rate, weight_decay=1e-3),
        }
    )
    print(tx.table(params))
    ts = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    before = jnp.mean((model.apply(params, x) - y) ** 2)
    for _ in range(steps):
        ts, loss = train_step(ts, x, y)
    print(f"loss {before:.4f} -> {loss:.4f} in {ts.step} steps")
    assert loss < before, "the loss did not fall"


if __name__ == "__main__":
    main()
