"""flax.nnx: `nnx.Optimizer` takes a gradtx chain; the learning rate lives in its state, to be read and set."""

import argparse

import jax
import jax.numpy as jnp
from flax import nnx

import gradtx


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(2, 32, rngs=rngs), nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def loss_fn(model, x, y):
    return jnp.mean((model(x) - y) ** 2)


@nnx.jit
def train_step(model, optimizer, x, y):
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    optimizer.update(model, grads)
    return loss


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps

    x = jax.random.uniform(jax.random.key(0), (256, 2), minval=-2.0, maxval=2.0)
    y = jnp.sin(x[:, :1]) * x[:, 1:]
    model = MLP(nnx.Rngs(0))
    # nnx keeps the transformation static, so numbers that are to change without a second compilation go into the state.
    tx = gradtx.inject_hyperparams(gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2)))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    before = loss_fn(model, x, y)
    for step in range(steps):
        if step == steps // 2:
            optimizer.opt_state.hyperparams["learning_rate"][...] = jnp.float32(3e-3)
        loss = train_step(model, optimizer, x, y)
    print(f"loss {before:.4f} -> {loss:.4f}, learning rate {optimizer.opt_state.hyperparams['learning_rate'][...]:g}")
    assert loss < before, "the loss did not fall"


if __name__ == "__main__":
    main()
