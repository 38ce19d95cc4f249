"""orbax: save in the middle of a run, restore into the shapes that `jax.eval_shape` knows, and go on: the same bits."""

import argparse
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import gradtx


def init_params():
    first = {"kernel": jax.random.normal(jax.random.key(1), (2, 32)), "bias": jnp.zeros(32)}
    return {
        "first": first,
        "second": {"kernel": jax.random.normal(jax.random.key(2), (32, 1)) / 6, "bias": jnp.zeros(1)},
    }


def loss_fn(params, x, y):
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return jnp.mean((hidden @ params["second"]["kernel"] + params["second"]["bias"] - y) ** 2)


def train(tx, params, state, x, y, steps):
    for _ in range(steps):
        params, state = gradtx.step(tx, params, state, jax.grad(loss_fn)(params, x, y), donate=False)
    return params, state


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps

    x = jax.random.uniform(jax.random.key(0), (256, 2), minval=-2.0, maxval=2.0)
    y = jnp.sin(x[:, :1]) * x[:, 1:]
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2))
    start = init_params()
    params, state = train(tx, start, tx.init(start), x, y, steps // 2)
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        path = pathlib.Path(folder).absolute() / "run"
        checkpointer.save(path, {"params": params, "state": state})
        checkpointer.wait_until_finished()
        shapes = jax.eval_shape(init_params)  # no array is made for what is to be read
        restored = checkpointer.restore(path, {"params": shapes, "state": jax.eval_shape(tx.init, shapes)})
    went_on = train(tx, params, state, x, y, steps - steps // 2)
    restarted = train(tx, restored["params"], restored["state"], x, y, steps - steps // 2)
    for a, b in zip(jax.tree.leaves(went_on), jax.tree.leaves(restarted), strict=True):
        assert np.array_equal(a, b), "the restored run is not the same"
    print(f"loss {loss_fn(start, x, y):.4f} -> {loss_fn(restarted[0], x, y):.4f}; restored, and bitwise the same")
    assert loss_fn(restarted[0], x, y) < loss_fn(start, x, y), "the loss did not fall"


if __name__ == "__main__":
    main()
