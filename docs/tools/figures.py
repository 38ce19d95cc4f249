"""Draw the pictures of the documentation that no example draws: what each step from SGD to AdamW does.

    python docs/tools/figures.py                  # into docs/images, about half a minute
    python docs/tools/figures.py --only decay     # one of them

Every curve is what gradtx computes. Needs `pip install gradtx[docs]`.
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

BLUE, ORANGE, RED, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#777777"  # Okabe & Ito's


@jax.jit
def respond(tx, gradients, params):
    """The updates that a series of gradients gives, at parameters that stay where they are."""
    scan = lambda state, g: tx.update(g, state, params)[::-1]  # noqa: E731
    return jax.lax.scan(scan, tx.init(params), gradients)[1]


@functools.partial(jax.jit, static_argnames=("steps",))
def descend(tx, curvatures, start, noise, key, steps):
    """The parameters after each step down a bowl, whose gradient has noise of the standard deviation `noise`."""

    def step(carry, key):
        p, state = carry
        updates, state = tx.update(curvatures * p + noise * jax.random.normal(key, p.shape), state, p)
        p = gradtx.apply_updates(p, updates)
        return (p, state), p

    return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, steps))[1]


def heavy_ball():
    """What momentum does for a long valley, and what it does not do for noise."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    steps, curvatures = 150, jnp.array([1.0, 0.01])
    root = 10.0  # of the condition number, 100
    rates = {"SGD": (root**2 - 1) / (root**2 + 1), "Heavy ball": (root - 1) / (root + 1)}
    optimizers = {
        "SGD": (GREY, gradtx.sgd(2 / (1 + 0.01))),
        "Heavy ball": (RED, gradtx.sgd(4 / (1 + 0.1) ** 2, momentum=rates["Heavy ball"] ** 2)),
    }
    t = np.arange(1, steps + 1)
    for name, (color, tx) in optimizers.items():
        path = descend(tx, curvatures, jnp.ones(2), 0.0, jax.random.key(0), steps)
        left.semilogy(t, np.linalg.norm(path, axis=1), color=color, lw=2.5)
        left.semilogy(t, rates[name] ** t, ":", color=color, lw=1.5)
    left.set(xlabel="step", ylabel="distance from the minimum", ylim=(1e-12, 3), xlim=(0, steps))
    left.annotate("SGD: a factor 0.980 a step", (62, 2.5e-2), color=GREY, weight="bold")
    left.annotate("Heavy ball: 0.818", (148, 1e-4), color=RED, weight="bold", ha="right")
    left.annotate("dotted: the rates of theory", (4, 3e-12), color="0.5")
    left.set_title("Without noise: curvatures 1 and 0.01,\neach at its best rate", loc="left", pad=10)

    steps, runs, rate = 500, 400, 0.1
    slow, falling = rate / 10, gradtx.schedules.cosine_decay_schedule(rate / 10, steps)
    rows = [
        (ORANGE, gradtx.sgd(rate, momentum=0.9), "heavy ball 0.9, same rate:\na step ten times as long", (120, 1.0)),
        (GREY, gradtx.sgd(rate), "and SGD: the same floor", (120, 0.068)),
        (RED, gradtx.sgd(slow, momentum=0.9), "heavy ball 0.9 at a tenth of the rate", (120, 0.125)),
        (BLUE, gradtx.sgd(falling, momentum=0.9), "the same, rate decayed to 0", (215, 0.0065)),
    ]
    curvatures, keys = jnp.array([1.0, 0.2]), jax.random.split(jax.random.key(1), runs)
    for color, tx, name, place in rows:
        path = jax.vmap(lambda key, tx=tx: descend(tx, curvatures, jnp.full(2, 3.0), 1.0, key, steps))(keys)
        loss = np.asarray((curvatures * path**2 / 2).sum(-1).mean(0))
        right.semilogy(np.arange(1, steps + 1), loss, color=color, lw=2.2)
        right.annotate(name, place, color=color, weight="bold")
    right.set(xlabel="step", ylabel="mean loss of 400 runs", xlim=(0, steps), ylim=(3e-3, 20))
    right.set_title("With noise: the rate sets the floor,\nand momentum does not lower it", loc="left", pad=10)
    return figure


def first_steps():
    """How large Adam's first steps are, with and without bias correction."""
    steps = 10_000
    first, second, root = gradtx.ema_first_moment(0.9), gradtx.ema_second_moment(0.999), gradtx.scale_by_rms(0.0)
    rows = {
        "corrected: Adam": (BLUE, gradtx.chain(first, second, gradtx.bias_correction(), root)),
        "neither moment corrected": (RED, gradtx.chain(first, second, root)),
        "no first moment, second not corrected": (PINK, gradtx.chain(second, root)),
    }
    figure, axes = plt.subplots(figsize=(9, 4.4), layout="constrained")
    t = np.arange(1, steps + 1)
    for color, tx in rows.values():
        axes.loglog(t, respond(tx, jnp.ones(steps), jnp.zeros(())), color=color, lw=2.5)
    worst = np.asarray(respond(rows["neither moment corrected"][1], jnp.ones(steps), jnp.zeros(())))
    at = int(worst.argmax())
    axes.plot(t[at], worst[at], "o", color=RED, ms=8)
    said = f"neither moment corrected:\n{worst[at]:.1f} times too large at step {t[at]}"
    axes.annotate(said, (1.15, 1.75), color=RED, weight="bold", va="center")
    axes.annotate(
        "no first moment, second not corrected:\n32 times too large at step 1", (4.2, 19), color=PINK, weight="bold"
    )
    axes.annotate("both corrected: Adam", (1.15, 0.93), color=BLUE, weight="bold", va="top")
    axes.set(xlabel="step", ylabel="update / learning rate", xlim=(1, steps), ylim=(0.6, 55))
    axes.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    axes.set_xticks([1, 10, 100, 1000, 10000], ["1", "10", "100", "1,000", "10,000"])
    axes.minorticks_off()
    axes.grid(axis="y", color="0.92")
    axes.set_title("The first steps along a constant gradient, decays 0.9 and 0.999", loc="left", pad=12)
    return figure


def coordinate_rates():
    """The learning rate of one coordinate: AdaGrad's falls, RMSProp's follows."""
    steps, change = 1200, 600
    size = np.where(np.arange(steps) < change, 1.0, 0.1)
    gradients = jnp.asarray(np.random.default_rng(0).normal(0, size), jnp.float32)
    rows = {
        "AdaGrad": (GREEN, gradtx.chain(gradtx.sum_of_squares(0.0), gradtx.scale_by_rms(0.0))),
        "RMSProp": (
            PINK,
            gradtx.chain(gradtx.ema_second_moment(0.99), gradtx.bias_correction(), gradtx.scale_by_rms(0.0)),
        ),
    }
    figure, (above, axes) = plt.subplots(
        2, 1, figsize=(9, 5.2), layout="constrained", sharex=True, gridspec_kw={"height_ratios": [1, 2.6]}
    )
    t = np.arange(1, steps + 1)
    above.plot(t, gradients, ".", color="0.6", ms=3)
    above.set(ylabel="gradient", ylim=(-3.6, 3.6))
    above.annotate("the gradient becomes ten times smaller", (change, 2.2), (change + 15, 1.9), color="0.4")
    for name, (color, tx) in rows.items():
        axes.semilogy(t, respond(tx, gradients, jnp.zeros(())) / gradients, color=color, lw=2.5, label=name)
    axes.annotate("AdaGrad: falls like $1/\\sqrt{t}$, and never rises", (250, 0.019), color=GREEN, weight="bold")
    axes.annotate("RMSProp: forgets, and follows", (110, 1.9), color=PINK, weight="bold")
    axes.set(xlabel="step", ylabel="rate of this coordinate, $1/\\sqrt{v_t}$", xlim=(0, steps), ylim=(0.015, 25))
    axes.grid(axis="y", color="0.92")
    above.set_title("Dividing by the root of the past squares", loc="left", pad=12)
    return figure


def decay():
    """Weights without a task, noise of several sizes in their gradients: who decays?"""
    steps, copies, rate = 1500, 200, 1e-3
    noises = np.array([0.3, 1.0, 3.0, 10.0])
    colors = plt.get_cmap("viridis")(np.linspace(0.0, 0.82, len(noises)))
    rows = {
        "Adam + L2": gradtx.chain(gradtx.add_decayed_weights(1.0), gradtx.adam(rate)),
        "AdamW": gradtx.adamw(rate, weight_decay=1.0),
    }
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    t = np.arange(steps + 1)
    scale = jnp.asarray(np.repeat(noises, copies), jnp.float32)
    start = jnp.ones(scale.shape)
    for axes, (name, tx) in zip(panels, rows.items(), strict=True):
        path = descend(tx, jnp.zeros(scale.shape), start, scale, jax.random.key(0), steps)
        mean = np.concatenate([start[None], path]).reshape(steps + 1, len(noises), copies).mean(-1)
        for k, color in enumerate(colors):
            axes.plot(t, mean[:, k], color=color, lw=2.6)
            if name == "Adam + L2":
                said = f"gradient\nnoise {noises[k]:g}" if k == len(noises) - 1 else f"noise {noises[k]:g}"
                style = {"color": color, "weight": "bold", "va": "center"}
                axes.annotate(said, (steps, mean[-1, k]), (6, 0), "data", "offset points", **style)
        axes.set(xlabel="step", xlim=(0, steps), ylim=(0, 1.04))
    panels[1].plot(t, (1 - rate) ** t, ":", color="black", lw=1.6)
    panels[1].annotate("dotted: $(1 - \\eta \\lambda)^t$", (700, 0.56), fontsize=12)
    panels[0].set_ylabel("mean weight")
    panels[0].set_title("Adam + L2: the louder the gradient, the weaker the decay", loc="left", pad=10, fontsize=12)
    panels[1].set_title("AdamW: every weight decays alike", loc="left", pad=10, fontsize=12)
    return figure


def memory_in_steps():
    """How much of each past gradient the averages still hold."""
    steps = 3000
    impulse = jnp.zeros(steps).at[0].set(1.0)
    t = np.arange(steps)
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    for b, color, what in ((0.9, BLUE, "$b_1 = 0.9$"), (0.99, GREEN, "$0.99$"), (0.999, RED, "$b_2 = 0.999$")):
        kept = respond(gradtx.ema(b, debias=False), impulse, jnp.zeros(()))
        share = 1 - np.cumsum(np.asarray(kept))
        axes.semilogx(t + 1, share, color=color, lw=2.6)
        at = 1 / (1 - b)
        axes.plot(at, np.interp(at, t + 1, share), "o", color=color, ms=8)
        axes.annotate(f"{what}:\n{at:,.0f} steps", (at * 1.12, 0.42), color=color, weight="bold")
    axes.axhline(np.exp(-1), color="0.8", lw=1, zorder=0)
    axes.annotate("$1/e$", (1.03, np.exp(-1)), color="0.5", va="bottom")
    axes.set(xlabel="steps back", ylabel="weight of what is older", xlim=(1, steps), ylim=(0, 1.02))
    axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    axes.set_title("An average with decay $b$ remembers about $1 / (1 - b)$ steps", loc="left", pad=12)
    return figure


def language_model(width=4096, layers=32, hidden=11008, words=32000):
    """The shapes of a language model of 6.7 billion parameters (Llama 2's)."""
    shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.float32)  # noqa: E731
    layer = {
        **{name: shape(width, width) for name in ("query", "key", "value", "out")},
        **{name: shape(width, hidden) for name in ("gate", "up")},
        "down": shape(hidden, width),
        **{name: shape(width) for name in ("norm", "norm_2")},
    }
    return {"layers": [layer] * layers, "embed": shape(words, width), "head": shape(width, words), "norm": shape(width)}


def state_bytes():
    """What each optimizer keeps for a language model."""
    rows = {
        "sgd": (GREY, gradtx.sgd(1e-3)),
        "adafactor": (GREEN, gradtx.adafactor(1e-3)),
        'adamw, storage="quarter"': (BLUE, gradtx.adamw(1e-3, storage="quarter")),
        'lion, storage="half"': (ORANGE, gradtx.lion(1e-4, storage="half")),
        'adamw, storage="half"': (BLUE, gradtx.adamw(1e-3, storage="half")),
        "sgd with momentum, lion, muon": (ORANGE, gradtx.lion(1e-4)),
        "adam, adamw": (BLUE, gradtx.adamw(1e-3)),
        "ademamix": (PINK, gradtx.ademamix(1e-3)),
        "soap": (RED, gradtx.soap(3e-3, adam_paths=("embed", "head"))),
    }
    shapes = language_model()
    sizes = {name: gradtx.memory_plan(tx, shapes).bytes / 2**30 for name, (_, tx) in rows.items()}
    figure, axes = plt.subplots(figsize=(9, 4.8), layout="constrained")
    for i, (name, size) in enumerate(sizes.items()):
        axes.barh(i, size, color=rows[name][0], height=0.68)
        shown = f"{size:.0f} GiB" if size >= 1 else f"{size * 1024:.0f} MiB" if size > 1e-4 else "nothing"
        axes.annotate(shown, (size, i), (6, 0), "data", "offset points", va="center", color="0.25")
    parameters = sum(np.prod(s.shape) for s in jax.tree.leaves(shapes)) * 4 / 2**30
    axes.axvline(parameters, color="0.35", lw=1.2, ls=(0, (4, 3)))
    axes.annotate(
        "the parameters themselves, in float32",
        (parameters, -0.2),
        (6, 0),
        "data",
        "offset points",
        color="0.35",
        va="center",
    )
    axes.set_yticks(range(len(sizes)), sizes)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="GiB of state", xlim=(0, max(sizes.values()) * 1.12), ylim=(-0.6, len(sizes) - 0.4))
    axes.set_title("State of a language model of 6.7 billion parameters", loc="left", pad=12)
    return figure


def save(figure, file):
    """A PNG of 96 colors, about a third of the size."""
    figure.savefig(file, dpi=130)
    plt.close(figure)
    Image.open(file).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(file, optimize=True)


FIGURES = (heavy_ball, first_steps, coordinate_rates, decay, memory_in_steps, state_bytes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parents[1] / "images")
    parser.add_argument("--only", nargs="*", default=[f.__name__ for f in FIGURES])
    args = parser.parse_args()
    plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False})
    args.out.mkdir(parents=True, exist_ok=True)
    for figure in FIGURES:
        if figure.__name__ in args.only:
            file = args.out / f"{figure.__name__}.png"
            save(figure(), file)
            print(file)


if __name__ == "__main__":
    main()
