"""Watch a training run: probes in the chain, their values in a CSV file, in TensorBoard and behind a progress bar.

    python examples/log_metrics.py                      # 300 steps on handwritten digits, a few seconds
    python examples/log_metrics.py --out runs/first     # metrics.csv and the events (default: examples/out)
    tensorboard --logdir examples/out                   # to look at them, if tensorboard is installed

Needs `pip install gradtx[examples]`: tensorboardX writes TensorBoard's events without TensorFlow or PyTorch.
"""

import argparse
import csv
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from tensorboardX import SummaryWriter
from tqdm import tqdm

import gradtx

STEPS, BATCH, EVERY = 300, 64, 10
LAYERS = {"hidden": "hidden/**", "last": "last/**"}


def largest(view):
    """A measurement of one's own: the size of the largest update."""
    return jnp.max(jnp.array([abs(update).max() for update in view.updates]))


def optimizer(steps):
    """AdamW, and what is to be seen of it. A probe measures at the place where it stands."""
    rate = gradtx.schedules.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, steps)
    return gradtx.chain(
        gradtx.gradient_norm(per=LAYERS),
        gradtx.fraction_clipped(gradtx.clip(0.1)),
        gradtx.adamw(rate, weight_decay=0.1, mask=lambda path, leaf: leaf.ndim > 1),
        gradtx.update_ratio(per=LAYERS),
        gradtx.update_cosine(),
        gradtx.probe("largest update", largest),
    )


def init_params(key):
    init, (one, two) = jax.nn.initializers.he_normal(), jax.random.split(key)
    return {
        "hidden": {"kernel": init(one, (64, 64)), "bias": jnp.zeros(64)},
        "last": {"kernel": init(two, (64, 10)), "bias": jnp.zeros(10)},
    }


def loss_fn(params, images, labels):
    images = jax.nn.relu(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    scores = images @ params["last"]["kernel"] + params["last"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


@jax.jit
def train_step(tx, params, state, images, labels):
    loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
    params, state = gradtx.step(tx, params, state, grads)
    rate = gradtx.hyperparams(tx, state)["learning_rate"]
    return params, state, {"loss": loss, "learning_rate": rate, **gradtx.metrics(state)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "out")
    args = parser.parse_args()

    digits = load_digits()
    x, y = digits.data.astype(np.float32) / 16, digits.target
    rng = np.random.default_rng(0)
    tx = optimizer(args.steps)
    params = init_params(jax.random.key(0))
    state = tx.init(params)

    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "metrics.csv"
    with file.open("w", newline="") as rows, SummaryWriter(str(args.out / "events")) as writer:
        table = None
        with tqdm(total=args.steps, disable=None) as progress:
            for step in range(1, args.steps + 1):
                chosen = rng.integers(0, len(x), BATCH)
                params, state, seen = train_step(tx, params, state, x[chosen], y[chosen])
                progress.update()
                if step % EVERY and step != args.steps:
                    continue  # nothing waits for the device, but where its numbers are read
                seen = {name: float(value) for name, value in seen.items()}
                table = table or csv.DictWriter(rows, ["step", *seen])
                if rows.tell() == 0:
                    table.writeheader()
                table.writerow({"step": step, **seen})
                for name, value in seen.items():
                    writer.add_scalar(name.replace(" ", "_"), value, step)
                progress.set_postfix({k: f"{seen[k]:.3g}" for k in ("loss", "learning_rate", "update_cosine")})
    written = list(csv.DictReader(file.open()))
    print(f"loss {float(written[0]['loss']):.3f} -> {float(written[-1]['loss']):.3f}; {len(written)} rows in {file}")
    print(", ".join(written[-1]))
    events = sorted((args.out / "events").glob("events.out.tfevents.*"))
    assert sum(event.stat().st_size for event in events) > 0, "no events were written"
    assert float(written[-1]["loss"]) < float(written[0]["loss"]) or args.steps < EVERY, "the loss did not fall"


if __name__ == "__main__":
    main()
