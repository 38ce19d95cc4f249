"""The first-order optimizers of gradtx on one real task, each with the best of seven learning rates.

    python examples/compare_optimizers.py                     # some minutes on two cores
    python examples/compare_optimizers.py --steps 20          # a quick look
    python examples/compare_optimizers.py --only adamw lion   # some of them

A transformation is data, so seven learning rates are one transformation with an array in it: `jax.vmap` trains the
seven networks at once, in one compiled program. Needs `pip install gradtx[examples]`.
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
from tqdm import tqdm

import gradtx

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image  # matplotlib brings it

STEPS, BATCH, CHUNK = 400, 64, 20

# Family: {name: (learning rate -> optimizer, the middle of the learning rates tried)}.
GALLERY = {
    "momentum": {
        "sgd": (gradtx.sgd, 0.3),
        "heavy ball": (lambda lr: gradtx.sgd(lr, 0.9), 0.05),
        "nesterov": (lambda lr: gradtx.sgd(lr, 0.9, nesterov=True), 0.05),
        "optimistic_gradient_descent": (gradtx.optimistic_gradient_descent, 0.1),
        "noisy_sgd": (lambda lr: gradtx.noisy_sgd(lr, eta=1e-6), 0.3),
        "polyak_sgd": (gradtx.polyak_sgd, 1.0),
        "schedule_free_sgd": (lambda lr: gradtx.schedule_free_sgd(lr), 1.0),
        "lookahead": (lambda lr: gradtx.lookahead(gradtx.sgd(lr, 0.9), 5, 0.5), 0.1),
    },
    "adaptive": {
        "adagrad": (gradtx.adagrad, 0.1),
        "adadelta": (gradtx.adadelta, 10.0),
        "rmsprop": (gradtx.rmsprop, 3e-3),
        "sm3": (gradtx.sm3, 0.3),
        "rprop": (lambda lr: gradtx.rprop(lr, max_step_size=1e-2), 1e-3),
        "novograd": (gradtx.novograd, 0.03),
        "adafactor": (gradtx.adafactor, 0.03),
    },
    "Adam": {
        "adam": (gradtx.adam, 3e-3),
        "adamw": (gradtx.adamw, 3e-3),
        "nadamw": (gradtx.nadamw, 3e-3),
        "amsgrad": (gradtx.amsgrad, 3e-3),
        "adamax": (gradtx.adamax, 6e-3),
        "radam": (gradtx.radam, 3e-3),
        "adabelief": (gradtx.adabelief, 3e-3),
        "yogi": (gradtx.yogi, 1e-2),
    },
    "Adam, later": {
        "adan": (gradtx.adan, 3e-3),
        "ademamix": (gradtx.ademamix, 2e-3),
        "adopt": (gradtx.adopt, 3e-3),
        "stable_adamw": (gradtx.stable_adamw, 3e-3),
        "mars": (gradtx.mars, 3e-3),
        "cautious adamw": (
            lambda lr: gradtx.chain(gradtx.scale_by_adam(), gradtx.cautious(), gradtx.scale_by_learning_rate(lr)),
            3e-3,
        ),
        "schedule_free_adamw": (lambda lr: gradtx.schedule_free_adamw(lr), 1e-2),
        "prodigy": (gradtx.prodigy, 1.0),
    },
    "signs and layers": {
        "sign_sgd": (gradtx.sign_sgd, 1e-3),
        "signum": (gradtx.signum, 1e-3),
        "lion": (gradtx.lion, 5e-4),
        "lars": (lambda lr: gradtx.lars(lr, trust_coefficient=0.01), 3.0),
        "lamb": (gradtx.lamb, 0.02),
    },
    "curvature": {
        "muon": (gradtx.muon, 0.02),
        "soap": (gradtx.soap, 0.01),
        "kron": (gradtx.kron, 3e-3),
        # Meant for losses without noise: here its pairs and its line search see one batch at a time.
        "lbfgs": (gradtx.lbfgs, 1.0),
    },
}
SPREAD = np.geomspace(1 / 30, 30, 7)


def init_params(key, sizes=(64, 128, 10)):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"kernel": jax.nn.initializers.he_normal()(k, (n, m)), "bias": jnp.zeros(m)}
        for k, n, m in zip(keys, sizes, sizes[1:], strict=False)
    ]


def loss_fn(params, images, labels):
    hidden, last = params
    images = jax.nn.relu(images @ hidden["kernel"] + hidden["bias"])
    scores = images @ last["kernel"] + last["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


@functools.partial(jax.jit, donate_argnames=("params", "state"))
@functools.partial(jax.vmap, in_axes=(0, 0, 0, None))  # over the transformations, and what each has made so far
def train(tx, params, state, batches):
    """Some steps. Every optimizer is offered the keywords that any of them needs, and ignores the others."""

    def step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
        updates, state = tx.update(grads, state, params, value=loss, grad=grads, value_fn=lambda p: loss_fn(p, *batch))
        return (gradtx.apply_updates(params, updates), state), loss

    (params, state), losses = jax.lax.scan(step, (params, state), batches)
    return params, state, losses


def best_of_seven(build, middle, batches, title):
    """The losses of the best learning rate, and that rate."""
    rates = jnp.asarray(middle * SPREAD, jnp.float32)
    population = jax.vmap(build)(rates)
    params = jax.vmap(lambda _: init_params(jax.random.key(0)))(rates)
    state = jax.vmap(lambda tx, p: tx.init(p))(population, params)
    losses = []
    for start in tqdm(range(0, len(batches[0]), CHUNK), title, leave=False, disable=None):
        chunk = tuple(x[start : start + CHUNK] for x in batches)
        params, state, loss = train(population, params, state, chunk)
        losses.append(np.asarray(loss))
    curves = np.concatenate(losses, 1)
    late = np.where(np.isfinite(curves), curves, np.inf)[:, -max(len(batches[0]) // 10, 1) :].mean(1)
    best = int(np.argmin(late))
    return curves[best], float(rates[best]), float(late[best]), best


def smooth(series, b=0.9):
    average = gradtx.ema(b)
    return jax.lax.scan(lambda state, x: average.update(x, state)[::-1], average.init(series[0]), series)[1]


def draw(results, path):
    """One small picture for each optimizer, before the curves of all."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    families = {}
    for family, name in results:
        families.setdefault(family, []).append(name)
    columns = max(map(len, families.values()))
    size = (1.75 * columns, 1.75 * len(families) + 0.4)
    figure, grid = plt.subplots(
        len(families), columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    curves = {key: np.asarray(smooth(jnp.asarray(curve))) for key, (curve, *_) in results.items()}
    colors = ["#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe & Ito's
    for row, (family, names) in enumerate(families.items()):
        for column in range(columns):
            axes = grid[row][column]
            if column >= len(names):
                axes.set_visible(False)
                continue
            for curve in curves.values():
                axes.semilogy(curve, color="0.88", lw=0.6, zorder=1)
            name = names[column]
            axes.semilogy(curves[family, name], color=colors[row % len(colors)], lw=1.8, zorder=2)
            axes.set_title(name.replace("optimistic_gradient_descent", "optimistic"), loc="left", pad=3, fontsize=9)
            axes.text(0.97, 0.9, f"{results[family, name][1]:.2g}", transform=axes.transAxes, ha="right", color="0.4")
        grid[row][0].set_ylabel(family, weight="bold")
    finite = np.concatenate([c[np.isfinite(c)] for c in curves.values()])
    grid[0][0].set_ylim(max(finite.min() * 0.8, 1e-6), 4)
    figure.suptitle(
        "Training loss on handwritten digits, each with the best of seven learning rates (its number); "
        "grey: all the others",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    figure.savefig(path, dpi=120)
    Image.open(path).convert("RGB").quantize(48, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "out")
    parser.add_argument("--only", nargs="*", help="names of optimizers")
    args = parser.parse_args()

    digits = load_digits()
    x, y = digits.data.astype(np.float32) / 16, digits.target
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(x), (args.steps, BATCH))
    batches = (jnp.asarray(x[chosen]), jnp.asarray(y[chosen]))

    print(f"{args.steps} steps of {BATCH} digits; the mean loss of the last tenth, with the best of seven rates\n")
    print(f"{'':30}learning rate        loss")
    results = {}
    for family, members in GALLERY.items():
        for name, (build, middle) in members.items():
            if args.only and name not in args.only:
                continue
            curve, rate, late, best = best_of_seven(build, middle, batches, f"{name:28}")
            results[family, name] = (curve, rate, late)
            at_the_edge = "  (at the edge of those tried)" if best in (0, len(SPREAD) - 1) else ""
            print(f"{name:30}{rate:13.2g}{late:12.5f}{at_the_edge}")
            assert np.isfinite(late), f"{name}: no learning rate gave a finite loss"
    args.out.mkdir(parents=True, exist_ok=True)
    draw(results, args.out / "gallery.png")
    print(f"\nPicture: {args.out / 'gallery.png'}")


if __name__ == "__main__":
    main()
