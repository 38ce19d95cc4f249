"""bfloat16 parameters at learning rates where rounding to nearest stalls: final losses beside float32's.

    python -m benchmarks.parameter_rounding [--seeds 3] [--steps 2000]

Adam, float32 moments, constant learning rates: least squares at 1e-3, with noise in what is to be fitted (a least loss
of about 1) and without (where nothing is left but what bfloat16 cannot express), and the digits network at 1e-4. Losses
are those of the parameters as the model sees them, 16 bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from benchmarks import common, tasks

STAGES: dict[str, tuple[Any, float]] = {
    "to nearest": (None, 0),
    "stochastic_rounding()": (gradtx.stochastic_rounding(), 0),
    "compensated()": (gradtx.compensated(), 2),
    "compensated('float32')": (gradtx.compensated("float32"), 4),
    "master_weights()": (gradtx.master_weights(), 4),
    "master_weights(32)": (gradtx.master_weights(32), 2),
    "master_weights(24)": (gradtx.master_weights(24), 1),
}
SIZE, ROWS = 64, 1024


def least_squares(noise: float) -> Callable[[int], tuple[Any, Callable[..., jax.Array]]]:
    def task(seed: int) -> tuple[Any, Callable[..., jax.Array]]:
        rng = np.random.default_rng(seed)
        x = jnp.asarray(rng.normal(size=(ROWS, SIZE)), jnp.float32)
        y = x @ jnp.asarray(rng.normal(size=SIZE), jnp.float32)
        y = y + noise * jnp.asarray(rng.normal(size=ROWS), jnp.float32)

        def loss(params: Any, _: Any) -> jax.Array:
            return jnp.mean((x @ params["w"] - y) ** 2)

        return {"w": jnp.asarray(rng.normal(size=SIZE), jnp.float32)}, loss

    return task


def train(tx: Any, loss: Callable[..., jax.Array], params: Any, batches: Any) -> tuple[Any, jax.Array]:
    """The parameters after a run, and the loss of every step."""

    def wide(params: Any) -> Any:
        return jax.tree.map(lambda p: p.astype(jnp.float32), params)

    def body(carry: Any, batch: Any) -> Any:
        params, state = carry
        value, grads = jax.value_and_grad(lambda p: loss(wide(p), batch))(params)
        updates, state = tx.update(grads, state, params)
        return (gradtx.apply_updates(params, updates), state), value

    run = jax.jit(lambda params, state, batches: jax.lax.scan(body, (params, state), batches))
    (params, _), losses = run(params, tx.init(params), batches)
    return wide(params), losses


def one_seed(task: str, seed: int, steps: int, stage: Any, dtype: Any) -> float:
    """The final loss: of least squares at the end, of the digits the mean of the last 50 batches."""
    if task == "digits":
        digits = tasks.digits_mlp()
        params, loss, batches, rate = digits.init(seed), digits.loss, digits.batches(seed, steps), 1e-4
    else:
        params, loss = least_squares(1.0 if task == "noisy" else 0.0)(seed)
        batches, rate = jnp.zeros(8 * steps), 1e-3
    tx = gradtx.adam(rate) if stage is None else gradtx.chain(gradtx.adam(rate), stage)
    params, losses = train(tx, loss, jax.tree.map(lambda p: p.astype(dtype), params), batches)
    return float(losses[-50:].mean()) if task == "digits" else float(loss(params, None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000, help="of the digits; least squares takes 8 times as many")
    args = parser.parse_args()
    names = {"float32 parameters": (None, 0.0, jnp.float32)}
    names |= {f"bfloat16, {name}": (stage, extra, jnp.bfloat16) for name, (stage, extra) in STAGES.items()}
    rows, base = [], {}
    for name, (stage, extra, dtype) in names.items():
        cells = [name, f"{extra:g}"]
        for task in ("noisy", "exact", "digits"):
            found = np.array([one_seed(task, seed, args.steps, stage, dtype) for seed in range(args.seeds)])
            base.setdefault(task, found)
            cells.append(f"{found.mean():.4g}")
            if task != "exact":
                ratio = found / base[task]
                cells.append(f"{ratio.mean():.3f} ± {ratio.std():.3f}")
        rows.append(cells)
        print(" | ".join(cells), flush=True)
    print(f"\n{args.seeds} seeds, {args.steps} steps; {common.machine()}\n")
    header = [
        "Adam",
        "extra bytes",
        "least squares, 1e-3",
        "of float32's",
        "without noise",
        "digits, 1e-4",
        "of float32's",
    ]
    print(common.table(header, rows))


if __name__ == "__main__":
    main()
