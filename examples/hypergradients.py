"""Learn the learning rate: hypergradients, by differentiating through ten steps of training.

    python examples/hypergradients.py                # about half a minute on two cores
    python examples/hypergradients.py --steps 20     # a quick look

A transformation is a pytree whose leaves are its numbers, so `jax.grad` with respect to it is like any other gradient,
and the numbers are trained by an optimizer of their own. Needs `pip install gradtx[examples]`.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits

import gradtx

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STEPS, BATCH, AHEAD = 150, 64, 10
STARTS = {"SGD with momentum": (gradtx.sgd(1.0, 0.9), (1e-4, 1e-2)), "Adam": (gradtx.adam(1.0), (1e-5, 1e-3))}


def init_params(key):
    init, (one, two) = jax.nn.initializers.he_normal(), jax.random.split(key)
    return {"kernel": init(one, (64, 32)), "bias": jnp.zeros(32), "last": init(two, (32, 10))}


def loss_fn(params, images, labels):
    scores = jax.nn.relu(images @ params["kernel"] + params["bias"]) @ params["last"]
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def some_steps(log_rate, tx, params, state, batches):
    """The mean loss over some steps with this learning rate, and where they end."""
    tx = tx.replace(learning_rate=jnp.exp(log_rate))

    def step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
        updates, state = tx.update(grads, state, params)
        return (gradtx.apply_updates(params, updates), state), loss

    (params, state), losses = jax.lax.scan(step, (params, state), batches)
    return losses.mean(), (params, state)


@functools.partial(jax.jit, static_argnames="meta")
def train(meta, tx, log_rate, params, batches):
    """`log_rate` after each round of `AHEAD` steps, and the loss of the round; `meta` trains it."""

    def one_round(carry, batches):
        log_rate, memory, params, state = carry
        (loss, (params, state)), slope = jax.value_and_grad(some_steps, has_aux=True)(
            log_rate, tx, params, state, batches
        )
        change, memory = meta.update(slope, memory, log_rate)
        log_rate = gradtx.apply_updates(log_rate, change)
        return (log_rate, memory, params, state), (log_rate, loss)

    start = (log_rate, meta.init(log_rate), params, tx.init(params))
    return jax.lax.scan(one_round, start, batches)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="rounds of ten steps")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "out")
    args = parser.parse_args()

    digits = load_digits()
    x, y = digits.data.astype(np.float32) / 16, digits.target
    chosen = np.random.default_rng(0).integers(0, len(x), (args.steps, AHEAD, BATCH))
    batches = (jnp.asarray(x[chosen]), jnp.asarray(y[chosen]))
    params = init_params(jax.random.key(0))

    meta, still = gradtx.adam(0.1), gradtx.adam(0.0)
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, grid = plt.subplots(2, len(STARTS), figsize=(8, 5), sharex=True, layout="constrained")
    for column, (name, (tx, rates)) in enumerate(STARTS.items()):
        for rate, color in zip(rates, ("#0072B2", "#D55E00"), strict=True):
            start = jnp.log(jnp.float32(rate))
            logs, losses = train(meta, tx, start, params, batches)
            _, fixed = train(still, tx, start, params, batches)
            assert np.isfinite(losses).all()
            grid[0][column].semilogy(np.exp(logs), color=color, label=f"learned, from {rate:g}")
            grid[1][column].semilogy(losses, color=color)
            grid[1][column].semilogy(fixed, color=color, ls=":")
            print(
                f"{name:18} rate {rate:g} -> {float(np.exp(logs[-1])):.3g}: loss {float(losses[-5:].mean()):.5f} "
                f"(left at its start: {float(fixed[-5:].mean()):.5f})"
            )
        grid[0][column].set_title(name, loc="left")
        grid[1][column].set_xlabel(f"rounds of {AHEAD} steps")
        grid[0][column].legend(frameon=False)
    grid[0][0].set_ylabel("learning rate")
    grid[1][0].set_ylabel("training loss")
    styles = [plt.Line2D([], [], color="0.3", ls=ls) for ls in ("-", ":")]
    labels, place = ["learned", "left at its start"], {"loc": "upper right", "bbox_to_anchor": (1, 0.9)}
    grid[1][0].legend(styles, labels, frameon=False, **place)
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "hypergradients.png", dpi=120, pil_kwargs={"optimize": True})
    print(f"Picture: {args.out / 'hypergradients.png'}")


if __name__ == "__main__":
    main()
