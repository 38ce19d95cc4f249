"""A sweep of 16 learning rates x 10 weight decays: 160 networks in one compiled program, and their heat map.

    python examples/sweep.py                       # about a minute on two cores
    python examples/sweep.py --steps 20            # a quick look
    python examples/sweep.py --compare             # 16 learning rates at once against 16 runs one after the other

A transformation is data: with arrays in the places of its numbers, `jax.vmap` over it trains a population. Needs
`pip install gradtx[examples]`.
"""

import argparse
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradtx

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STEPS, BATCH, HIDDEN = 300, 32, 32
RATES = np.geomspace(1e-4, 1.0, 16)
DECAYS = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 9)])


def matrices(path, leaf):  # not a lambda in `optimizer`, which would be another function, and program, each time
    return leaf.ndim > 1


def optimizer(rate, decay):
    """AdamW with the decay on matrices alone. The numbers may be traced: that is all a sweep needs."""
    return gradtx.adamw(rate, weight_decay=decay, mask=matrices)


def data(steps):
    digits = load_digits()
    x, held_out, y, held_out_y = train_test_split(
        digits.data.astype(np.float32) / 16, digits.target, test_size=0.4, random_state=0
    )
    chosen = np.random.default_rng(0).integers(0, 300, (steps, BATCH))  # of 300 digits only: weight decay has a use
    return (jnp.asarray(x[chosen]), jnp.asarray(y[chosen])), (jnp.asarray(held_out), jnp.asarray(held_out_y))


def init_params(key):
    init, (one, two) = jax.nn.initializers.he_normal(), jax.random.split(key)
    return {
        "hidden": {"kernel": init(one, (64, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
        "last": {"kernel": init(two, (HIDDEN, 10)), "bias": jnp.zeros(10)},
    }


def loss_fn(params, images, labels):
    images = jax.nn.relu(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    scores = images @ params["last"]["kernel"] + params["last"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def train(tx, batches, held_out):
    """The held-out loss after a whole run: an ordinary training loop, which knows nothing of sweeps."""
    params = init_params(jax.random.key(0))

    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(jax.grad(loss_fn)(params, *batch), state, params)
        return (gradtx.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
    return loss_fn(params, *held_out)


def population():
    """One transformation whose learning rate and decay are arrays: a row a rate, a column a decay."""
    grid = jnp.meshgrid(jnp.asarray(RATES, jnp.float32), jnp.asarray(DECAYS, jnp.float32), indexing="ij")
    return jax.vmap(jax.vmap(optimizer))(*grid)


def sweep(txs, batches, held_out):
    """The held-out losses of all, in one call."""
    over_both = jax.vmap(jax.vmap(train, in_axes=(0, None, None)), in_axes=(0, None, None))
    return np.asarray(jax.jit(over_both)(txs, batches, held_out))


def draw(losses, path):
    plt.rcParams.update({"font.size": 10})
    figure, axes = plt.subplots(figsize=(7.6, 5.2), layout="constrained")
    shown = np.log10(np.where(np.isfinite(losses), losses, np.nan)).T
    ceiling = np.log10(2.5)  # about what an untrained network has
    image = axes.imshow(np.minimum(shown, ceiling), origin="lower", aspect="auto", cmap="viridis_r")
    image.cmap.set_bad("0.85")
    axes.set_xticks(range(len(RATES))[::3], [f"{r:.1g}" for r in RATES[::3]])
    axes.set_yticks(range(len(DECAYS)), [f"{d:.1g}" for d in DECAYS])
    axes.set_xlabel("learning rate")
    axes.set_ylabel("weight decay")
    best = np.unravel_index(np.nanargmin(np.where(np.isfinite(losses), losses, np.nan)), losses.shape)
    axes.plot(*best, marker="*", ms=16, mfc="white", mec="black")
    bar = figure.colorbar(image, label="held-out loss")
    ticks = [t for t in (0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0) if np.nanmin(shown) <= np.log10(t) <= ceiling]
    bar.set_ticks(np.log10(ticks), labels=[f"{t:g}" for t in ticks])
    axes.set_title(
        f"{losses.size} runs of AdamW in one compiled program; the best: rate {RATES[best[0]]:.2g}, decay "
        f"{DECAYS[best[1]]:.2g}, loss {losses[best]:.3f}. Grey: diverged",
        fontsize=10,
        loc="left",
    )
    figure.savefig(path, dpi=120, pil_kwargs={"optimize": True})
    return best


def compilations(run):
    """Seconds and compiled programs of something."""
    seen = []
    listen = lambda event, *rest, **kwargs: seen.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    jax.monitoring.unregister_event_duration_listener(listen)
    return result, seconds, sum(event == "/jax/core/compile/backend_compile_duration" for event in seen)


def compare(batches, held_out):
    """16 learning rates at once, as 16 runs of one program, and as 16 programs (the number a constant in each)."""
    rates = jnp.asarray(RATES, jnp.float32)
    population = jax.vmap(lambda rate: optimizer(rate, 0.1))(rates)
    at_once = jax.jit(jax.vmap(train, in_axes=(0, None, None)))
    as_argument = jax.jit(train)
    each = [optimizer(float(rate), 0.1) for rate in RATES]
    ways = {
        "one program, all at once": lambda: at_once(population, batches, held_out),
        "one program, 16 runs": lambda: jnp.stack([as_argument(tx, batches, held_out) for tx in each]),
        "16 programs, 16 runs": lambda: jnp.stack(
            [jax.jit(functools.partial(train, tx))(batches, held_out) for tx in each]
        ),
    }
    reference = None
    print(f"{'':28}{'seconds':>9}{'compiled':>10}{'again':>9}")
    for name, way in ways.items():
        losses, seconds, programs = compilations(lambda way=way: np.asarray(way()))
        _, again, _ = compilations(lambda way=way: np.asarray(way()))
        reference = losses if reference is None else reference
        np.testing.assert_allclose(losses[:10], reference[:10], rtol=1e-2)  # beyond, training is chaotic
        print(f"{name:28}{seconds:9.2f}{programs:10}{again:9.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "out")
    parser.add_argument("--compare", action="store_true", help="time a sweep against separate runs")
    args = parser.parse_args()
    batches, held_out = data(args.steps)
    if args.compare:
        compare(batches, held_out)
        return
    txs = population()
    losses, seconds, programs = compilations(lambda: sweep(txs, batches, held_out))
    args.out.mkdir(parents=True, exist_ok=True)
    best = draw(losses, args.out / "sweep.png")
    print(f"{losses.size} runs of {args.steps} steps in {seconds:.1f} s; programs compiled: {programs}")
    print(f"best: learning rate {RATES[best[0]]:.2g}, weight decay {DECAYS[best[1]]:.2g}: loss {losses[best]:.4f}")
    print(f"Picture: {args.out / 'sweep.png'}")
    assert np.isfinite(losses[best])


if __name__ == "__main__":
    main()
