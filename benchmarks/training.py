"""Does it train? Every storage against float32, on three tasks and several seeds.

    JAX_PLATFORMS=cpu python -m benchmarks.training
    JAX_PLATFORMS=cpu python -m benchmarks.training --tasks mlp --seeds 2 --steps 100 --storages float32 half

Prints held-out losses as mean and spread over the seeds, and how far an update is from float32's where both optimizers
saw the same gradients, at the end of a run.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from benchmarks import common, tasks

STORAGES: dict[str, Any] = {
    "float32": None,
    "half": "half",
    "quarter": "quarter",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "log16": "log16",
}


def optimizer(task: tasks.Task, steps: int, storage: Any) -> Any:
    """AdamW as one trains with it: clipping, warm-up and cosine, no decay on vectors."""
    rate = gradtx.schedules.warmup_cosine_decay_schedule(0.0, task.learning_rate, max(steps // 10, 1), steps)
    mask = functools.partial(jax.tree.map, lambda p: p.ndim > 1)
    tx = gradtx.chain(
        gradtx.clip_by_global_norm(1.0), gradtx.adamw(rate, b2=0.99, weight_decay=task.weight_decay, mask=mask)
    )
    return tx if storage is None else gradtx.with_storage(tx, storage)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(task: tasks.Task, txs: tuple[Any, ...], params: Any, batches: Any) -> tuple[Any, jax.Array, jax.Array]:
    """Train with the first optimizer; the others see the same gradients and parameters, and are compared at the end.

    Returns:
        The parameters, the loss of each step, and for each other optimizer the relative error and the cosine of its
        last update against the first's, `[others, 2]`.
    """

    def step(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, states, _ = carry
        loss, grads = jax.value_and_grad(task.loss)(params, batch)
        results = [tx.update(grads, state, params) for tx, state in zip(txs, states, strict=True)]
        updates = [u for u, _ in results]
        flat = [jnp.concatenate([x.ravel() for x in jax.tree.leaves(u)]) for u in updates]
        apart = jnp.asarray([[_relative(x, flat[0]), _cosine(x, flat[0])] for x in flat[1:]]).reshape(-1, 2)
        return (gradtx.apply_updates(params, updates[0]), [s for _, s in results], apart), loss

    start = (params, [tx.init(params) for tx in txs], jnp.zeros((len(txs) - 1, 2)))
    (params, _, apart), losses = jax.lax.scan(step, start, batches)
    return params, losses, apart


def _relative(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.linalg.norm(x - y) / jnp.linalg.norm(y)


def _cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    return x @ y / (jnp.linalg.norm(x) * jnp.linalg.norm(y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tasks.TASKS, default=list(tasks.TASKS))
    parser.add_argument("--storages", nargs="+", choices=STORAGES, default=list(STORAGES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the task's own")
    parser.add_argument("--out", type=pathlib.Path, help="where storage_<task>.png goes")
    args = parser.parse_args()
    print(common.machine())
    for name in args.tasks:
        one_task(tasks.TASKS[name](), name, args)


def one_task(task: tasks.Task, name: str, args: argparse.Namespace) -> None:
    steps, started = args.steps or task.steps, time.time()
    txs = {s: optimizer(task, steps, STORAGES[s]) for s in args.storages}
    losses: dict[str, list[np.ndarray]] = {s: [] for s in txs}
    held_out: dict[str, list[float]] = {s: [] for s in txs}
    apart = []
    for seed in range(args.seeds):
        params, batches = task.init(seed), task.batches(seed, steps)
        for storage, tx in txs.items():
            trained, curve, _ = run(task, (tx,), params, batches)
            held_out[storage].append(float(task.held_out(trained)))
            losses[storage].append(np.asarray(curve))
            print(
                f"  {name} seed {seed} {storage}: {held_out[storage][-1]:.4f} ({time.time() - started:.0f} s)",
                flush=True,
            )
        reference = optimizer(task, steps, None)
        apart.append(run(task, (reference, *txs.values()), params, batches)[2])
    errors = np.mean(np.asarray(apart), axis=0)
    size = common.count_parameters(task.init(0))
    print(f"\n{task.name}: {size:,} parameters, {steps} steps, {args.seeds} seeds\n")
    base = held_out[args.storages[0]]
    rows = []
    for i, (storage, tx) in enumerate(txs.items()):
        plan = gradtx.memory_plan(tx, task.init(0))
        gaps = [a - b for a, b in zip(held_out[storage], base, strict=True)]
        spread = statistics.stdev(held_out[storage]) if args.seeds > 1 else float("nan")
        gap_spread = statistics.stdev(gaps) if args.seeds > 1 else float("nan")
        rows.append(
            [
                storage,
                f"{plan.per_parameter:.2f}",
                f"{statistics.mean(held_out[storage]):.4f} ± {spread:.4f}",
                f"{statistics.mean(gaps):+.4f} ± {gap_spread:.4f}",
                f"{errors[i, 0]:.4f}",
                f"{errors[i, 1]:.5f}",
            ]
        )
    header = ["storage", "bytes/param", "held-out loss", "minus float32's", "update error", "cosine"]
    print(common.table(header, rows), flush=True)
    if args.out:
        draw(task, losses, args.out / f"storage_{name}.png")


def draw(task: tasks.Task, losses: dict[str, list[np.ndarray]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for storage, curves in losses.items():
        window = max(len(curves[0]) // 40, 1)
        smooth = [np.convolve(c, np.ones(window) / window, "valid") for c in curves]
        mean = np.mean(smooth, axis=0)
        x = np.arange(len(mean)) + window
        (line,) = axes.plot(x, mean, label=storage, lw=1.5)
        axes.fill_between(x, np.min(smooth, axis=0), np.max(smooth, axis=0), color=line.get_color(), alpha=0.15, lw=0)
    axes.set(xlabel="step", ylabel="training loss", yscale="log", title=f"AdamW's state in fewer bytes: {task.name}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
