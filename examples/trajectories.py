"""Draw what optimizers do: their paths down two valleys, and what bias correction does to a moving average.

    python examples/trajectories.py                     # trajectories.png and ema.png, in examples/out
    python examples/trajectories.py --out docs/images

Needs `pip install gradtx[examples]` for matplotlib.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import gradtx

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image  # matplotlib brings it

STEPS = 100


def bowl(p):
    """A quadratic whose curvature is 16 times larger across than along."""
    return (p[0] ** 2 + 16 * p[1] ** 2) / 2


def rosenbrock(p):
    """A curved valley: easy to get into, hard to get along."""
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


# name: (color, the chain in front of the learning rate, the rate in the bowl, the rate in Rosenbrock's valley)
rms = gradtx.scale_by_rms(1e-8)
adam = gradtx.chain(gradtx.ema_first_moment(0.9), gradtx.ema_second_moment(0.999), gradtx.bias_correction(), rms)
OPTIMIZERS = {
    "SGD": ("#555555", gradtx.identity(), 0.115, 0.0015),
    "Heavy ball": ("#D55E00", gradtx.trace(0.9), 0.02, 0.0006),
    "Nesterov": ("#E69F00", gradtx.chain(gradtx.trace(0.9), gradtx.nesterov()), 0.02, 0.0006),
    "AdaGrad": ("#009E73", gradtx.chain(gradtx.sum_of_squares(0.0), rms), 0.25, 0.3),
    "RMSProp": ("#CC79A7", gradtx.chain(gradtx.ema_second_moment(0.9), rms), 0.1, 0.02),
    "Adam": ("#0072B2", adam, 0.15, 0.1),
}


@functools.partial(jax.jit, static_argnames=("function", "steps"))
def descend(tx, function, start, steps):
    """The path of `steps` steps, `float[steps + 1, 2]`."""

    def step(carry, _):
        p, state = carry
        updates, state = tx.update(jax.grad(function)(p), state, p)
        p = gradtx.apply_updates(p, updates)
        return (p, state), p

    _, path = jax.lax.scan(step, (start, tx.init(start)), length=steps)
    return jnp.concatenate([start[None], path])


def draw_paths(steps, file):
    """A block of six panels for each function: one optimizer a panel, so that no path hides another."""
    figure = plt.figure(figsize=(12, 7), layout="constrained")
    left, right = figure.subfigures(1, 2, wspace=0.03)
    left.suptitle(f"Ill-conditioned bowl: f after {steps} steps, a dot a step", fontsize=14)
    view = {
        "start": (-4.0, 1.6),
        "minimum": (0, 0),
        "x": (-4.7, 2.3),
        "y": (-2.6, 2.6),
        "levels": 2.0 ** np.arange(-4, 8),
    }
    first = draw_block(left, bowl, 0, steps, 1, **view)
    first.annotate("start", view["start"], (9, 5), textcoords="offset points", fontsize=11, va="center")
    first.annotate("minimum", view["minimum"], (0, -22), textcoords="offset points", fontsize=11, ha="center")
    right.suptitle(f"Rosenbrock's valley: f after {6 * steps} steps, a dot every 10", fontsize=14)
    view = {
        "start": (-1.2, 1.0),
        "minimum": (1, 1),
        "x": (-1.9, 1.9),
        "y": (-0.9, 1.92),
        "levels": 4.0 ** np.arange(-1, 7),
    }
    draw_block(right, rosenbrock, 1, 6 * steps, 10, **view)
    save(figure, file)


def draw_block(figure, function, which, steps, every, *, start, minimum, x, y, levels):
    xs, ys = np.meshgrid(np.linspace(*x, 300), np.linspace(*y, 300))
    grid = figure.subplots(3, 2)
    for axes, (name, (color, direction, *rates)) in zip(grid.T.flat, OPTIMIZERS.items(), strict=True):
        tx = gradtx.chain(direction, gradtx.scale_by_learning_rate(rates[which]))
        path = np.array(descend(tx, function, jnp.array(start), steps))
        axes.contour(xs, ys, function((xs, ys)), levels, colors="0.86", linewidths=0.8)
        axes.plot(*path.T, color=color, lw=1.6)
        axes.plot(*path[::every].T, ".", color=color, ms=5.5)
        axes.plot(*start, "o", color="white", mec="black", ms=8, mew=1.5, zorder=5)
        axes.plot(*minimum, "*", color="black", mec="white", ms=16, mew=1.0, zorder=5)
        axes.set(xlim=x, ylim=y, aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="0.7")
        axes.set_title(name, loc="left", color=color, weight="bold", pad=4)
        digit, exponent = f"{function(path[-1]):.0e}".split("e")
        end = f"$f = {digit} \\cdot 10^{{{int(exponent)}}}$"
        axes.set_title(end, loc="right", color="0.35", fontsize=11, pad=4)
    return grid[0, 0]


def save(figure, file):
    """A PNG of 96 colors, about a third of the size."""
    figure.savefig(file, dpi=130)
    Image.open(file).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(file, optimize=True)


@jax.jit
def smooth(average, series):
    """Any transformation maps a series: one update a value."""
    return jax.lax.scan(lambda state, x: average.update(x, state)[::-1], average.init(series[0]), series)[1]


def draw_averages(steps, file):
    """A moving average that starts at zero, with and without its correction."""
    t = np.arange(1, steps + 1)
    truth = 2 + 0.5 * np.sin(t / 25)
    series = jnp.asarray(truth + np.random.default_rng(0).normal(0, 0.4, steps), jnp.float32)
    corrected = smooth(gradtx.ema(0.95), series)
    uncorrected = smooth(gradtx.ema(0.95, debias=False), series)

    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    axes.plot(t, series, ".", color="0.72", ms=5)
    axes.fill_between(t, uncorrected, corrected, color="#D55E00", alpha=0.12, lw=0)
    axes.plot(t, uncorrected, color="#D55E00", lw=2.5)
    axes.plot(t, corrected, color="#0072B2", lw=2.5)
    axes.set(xlim=(0, steps + 1), ylim=(0, None), xlabel="step $t$", ylabel="value")
    style = {"xycoords": "axes fraction", "va": "top"}
    axes.annotate("ema(0.95)", (0.03, 0.92), color="#0072B2", weight="bold", **style)
    axes.annotate("ema(0.95, debias=False)", (0.2, 0.34), color="#D55E00", weight="bold", **style)
    axes.annotate("starts at 0: too small by the factor $1 - 0.95^t$", (0.2, 0.27), color="#D55E00", **style)
    axes.annotate("what is averaged", (t[-1], series[-1] - 0.2), color="0.5", ha="right")
    axes.set_title("A moving average with and without bias correction", loc="left", pad=12)
    save(figure, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "out")
    args = parser.parse_args()

    plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False})
    args.out.mkdir(parents=True, exist_ok=True)
    for name, draw in {"trajectories.png": draw_paths, "ema.png": draw_averages}.items():
        draw(args.steps, args.out / name)
        print(args.out / name)


if __name__ == "__main__":
    main()
