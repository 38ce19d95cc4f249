"""Train a small network on handwritten digits with eight optimizers, each built from gradtx's primitives.

    python examples/train_digits.py                     # about a minute on two cores
    python examples/train_digits.py --steps 20          # a quick look
    python examples/train_digits.py --out docs/images   # where loss_curves.png goes (default: examples/out)

Needs `pip install gradtx[examples]`: scikit-learn has the digits, matplotlib draws, tqdm shows the progress.
"""

import argparse
import functools
import itertools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import gradtx

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image  # matplotlib brings it

STEPS, BATCH, TARGET = 1000, 64, 0.97


def matrices(params):
    """Weight decay is for the matrices, not for the biases."""
    return jax.tree.map(lambda p: p.ndim == 2, params)


def optimizers(steps):
    """`{name: (chain of primitives, the same optimizer from Optax)}`."""

    def lr(peak):  # in a chain a schedule is data; to Optax it is a function of the step count, as its own are
        return gradtx.schedules.warmup_cosine_decay_schedule(peak / 10, peak, steps // 20, decay_steps=steps)

    def descend(peak):
        return gradtx.scale_by_learning_rate(lr(peak))

    adam = gradtx.chain(
        gradtx.ema_first_moment(0.9),
        gradtx.ema_second_moment(0.999),
        gradtx.bias_correction(),
        gradtx.scale_by_rms(1e-8),
    )
    rmsprop = gradtx.chain(gradtx.ema_second_moment(0.9), gradtx.scale_by_rms(1e-8))
    adagrad = gradtx.chain(gradtx.sum_of_squares(0.1), gradtx.scale_by_rms(eps=0.0, eps_root=1e-7))
    heavy_ball = gradtx.trace(0.9)
    l2 = gradtx.add_decayed_weights(1e-3, matrices)  # in front of the moments: it enters them
    decay = gradtx.decoupled_weight_decay(0.1, matrices)  # behind them: it does not
    return {
        "SGD": (descend(0.5), optax.sgd(lr(0.5))),
        "Heavy ball": (gradtx.chain(heavy_ball, descend(0.1)), optax.sgd(lr(0.1), 0.9)),
        "Nesterov": (gradtx.chain(heavy_ball, gradtx.nesterov(), descend(0.1)), optax.sgd(lr(0.1), 0.9, nesterov=True)),
        "AdaGrad": (gradtx.chain(adagrad, descend(0.1)), optax.adagrad(lr(0.1))),
        "RMSProp": (gradtx.chain(rmsprop, descend(3e-3)), optax.rmsprop(lr(3e-3), 0.9, eps_in_sqrt=False)),
        "Adam": (gradtx.chain(adam, descend(3e-3)), optax.adam(lr(3e-3))),
        "Adam + L2": (
            gradtx.chain(l2, adam, descend(3e-3)),
            optax.chain(optax.add_decayed_weights(1e-3, matrices), optax.adam(lr(3e-3))),
        ),
        "AdamW": (gradtx.chain(adam, decay, descend(3e-3)), optax.adamw(lr(3e-3), weight_decay=0.1, mask=matrices)),
    }


def init_params(seed, sizes=(64, 256, 10)):
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    kernels = map(jax.nn.initializers.he_normal(), keys, itertools.pairwise(sizes))
    return [{"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])} for kernel in kernels]


def logits(params, images):
    *hidden, last = params
    for layer in hidden:
        images = jax.nn.relu(images @ layer["kernel"] + layer["bias"])
    return images @ last["kernel"] + last["bias"]


@jax.jit
def loss_fn(params, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels).mean()


@functools.partial(jax.jit, donate_argnames=("params", "state"))
def train_step(tx, params, state, images, labels):
    """One step with any optimizer: `tx` is an argument like the others. The old parameters and state are used up."""
    loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
    updates, state = tx.update(grads, state, params)
    return gradtx.apply_updates(params, updates), state, loss


def train(tx, params, images, labels, title):
    """One step for each batch: the parameters, the state, the losses and the steps per second."""
    state, losses = tx.init(params), []
    for batch in tqdm(zip(images, labels, strict=True), title, len(images), leave=False, disable=None):
        params, state, loss = train_step(tx, params, state, *batch)
        losses.append(loss)
        if len(losses) == (len(images) + 1) // 2:  # the first step compiles, and the next ones warm up: time the others
            jax.block_until_ready(params)
            start = time.perf_counter()
    jax.block_until_ready(params)
    speed = (len(losses) // 2) / (time.perf_counter() - start)
    return params, state, np.array(losses), speed


@functools.partial(jax.jit, static_argnames="reference")
def compare(tx, reference, params, images, labels):
    """Train with `tx`, and in every step give `reference` the same gradients at the same parameters.

    Returns, for each step, the largest |difference| of their updates, and the largest |update|. The two Adams differ by
    1e-5 because Optax computes `1 - 0.999**t` in float32, where few digits are left of it: from an Adam in float64,
    gradtx's is 6e-7 away and Optax's 1e-5.
    """

    def step(carry, batch):
        params, state, other = carry
        grads = jax.grad(loss_fn)(params, *batch)
        updates, state = tx.update(grads, state, params)
        expected, other = reference.update(grads, other, params)
        sizes = optax.tree.norm(optax.tree.sub(updates, expected), ord=jnp.inf), optax.tree.norm(expected, ord=jnp.inf)
        return (gradtx.apply_updates(params, updates), state, other), sizes

    return jax.lax.scan(step, (params, tx.init(params), reference.init(params)), (images, labels))[1]


@jax.jit
def smooth(series):
    """An average is a transformation too: nothing here is about optimizers."""
    average = gradtx.ema(0.95)
    return jax.lax.scan(lambda state, x: average.update(x, state)[::-1], average.init(series[0]), series)[1]


def draw(curves, path):
    """The smoothed training losses, each with its name at its end."""
    colors = ["#7f7f7f", "#E69F00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#0072B2", "#0072B2"]  # Okabe & Ito's
    dashes = ["-", "-", "--", "-", "-", "-", "--", "-"]
    plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for losses, color, dash in zip(curves.values(), colors, dashes, strict=True):
        axes.semilogy(losses, dash, color=color, lw=1.8)

    bottom, top = np.log10(axes.get_ylim())
    ends = [(np.log10(losses[-1]) - bottom) / (top - bottom) for losses in curves.values()]
    order, places = np.argsort(ends), np.sort(ends)
    for _ in range(200):  # push names that would overlap apart
        overlap = np.maximum(0.052 - np.diff(places), 0) / 2
        places[:-1] -= overlap
        places[1:] += overlap
    for i, place in zip(order, places, strict=True):
        line = {"arrowstyle": "-", "color": colors[i], "lw": 0.8, "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 2}
        style = {"color": colors[i], "weight": "bold", "va": "center", "arrowprops": line}
        axes.annotate(list(curves)[i], (1, ends[i]), (1.05, place), "axes fraction", **style)
    axes.grid(axis="y", color="0.9")
    axes.set(xlim=(0, max(len(losses) - 1, 1)), xlabel="step", ylabel="training loss (smoothed)")
    axes.set_title("Eight chains, one training step: learning 1,437 handwritten digits", loc="left", pad=12)
    figure.savefig(path, dpi=130)
    Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps for each optimizer")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "out")
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters and of the order of the data")
    args = parser.parse_args()

    digits = load_digits()
    x, x_test, y, y_test = train_test_split(
        digits.data.astype(np.float32) / 16, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    rng, epochs = np.random.default_rng(args.seed), -(-args.steps * BATCH // len(x))
    order = np.concatenate([rng.permutation(len(x)) for _ in range(epochs)])[: args.steps * BATCH]
    batches = order.reshape(args.steps, BATCH)
    print(f"{len(x)} digits to learn from, {len(x_test)} to test on; {args.steps} steps of {BATCH}\n")

    print(f"{'':31}state bytes{'':13}updates against Optax's, same gradients")
    print(f"{'':11}train loss  test acc.  /parameter  steps/s  max |difference|  / max |update|")
    accuracy, curves = {}, {}
    for name, (tx, reference) in optimizers(args.steps).items():
        params, state, losses, speed = train(tx, init_params(args.seed), x[batches], y[batches], f"{name:10}")
        curves[name] = smooth(losses)
        accuracy[name] = float((logits(params, x_test).argmax(-1) == y_test).mean())
        size = sum(s.nbytes for s in jax.tree.leaves(state)) / sum(p.size for p in jax.tree.leaves(params))
        difference, update = compare(tx, reference, init_params(args.seed), x[batches], y[batches])
        print(f"{name:11}{loss_fn(params, x, y):10.5f}{accuracy[name]:11.2%}{size:12.1f}{speed:9.0f}", end="")
        print(f"{difference.max():18.1e}{(difference / update).max():16.1e}")
    print(f"\nAdamW was:\n{tx}")

    args.out.mkdir(parents=True, exist_ok=True)
    draw(curves, args.out / "loss_curves.png")
    print(f"\nLoss curves: {args.out / 'loss_curves.png'}")
    if args.steps >= STEPS and accuracy["AdamW"] < TARGET:
        sys.exit(f"AdamW reached a test accuracy of {accuracy['AdamW']:.2%}; expected at least {TARGET:.0%}")


if __name__ == "__main__":
    main()
