"""The time of a jitted, donated AdamW step on this CPU, against Optax and torch's fused AdamW.

    python -m benchmarks.step_time [--quick]

Each round times every contender once, in a new random order, and ratios are taken within a round. Optax stands in
the list twice: its ratio to itself is what noise alone does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

# torch's idle threads would otherwise spin beside XLA's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import gradtx
from benchmarks import common

TARGET = 1.05  # of Optax's time
LEARNING_RATE, DECAY = 1e-3, 1e-2


def trees(quick: bool) -> dict[str, Any]:
    """Parameter trees by what the table calls them."""
    if quick:
        return {"1": {"w": jnp.full((1024, 1024), 0.5)}, "28": common.transformer(2, 64)}
    square = {f"w_{i}": jnp.full((512, 512), 0.5) for i in range(40)}
    return {"1": {"w": jnp.full((4096, 2048), 0.5)}, "40": square, "1008": common.transformer(72, 128)}


def jax_contender(tx: Any, params: Any, steps: int, *, as_argument: bool = False) -> Callable[[], float]:
    """Seconds of `steps` steps of an optimizer that owns its parameters."""
    step = common.training_step(tx, as_argument=as_argument)
    first = (tx,) if as_argument else ()
    params = jax.tree.map(jnp.copy, params)
    grads = gradients_like(params)
    held = [params, tx.init(params)]

    def run() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            held[:] = step(*first, *held, grads)
        jax.block_until_ready(held)
        return time.perf_counter() - start

    run()
    return run


def gradients_like(params: Any) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape, np.float32)), params)


def torch_contender(params: Any, steps: int) -> Callable[[], float]:
    tensors = [torch.from_numpy(np.array(p)).requires_grad_() for p in jax.tree.leaves(params)]
    for tensor, grad in zip(tensors, jax.tree.leaves(gradients_like(params)), strict=True):
        tensor.grad = torch.from_numpy(np.array(grad))
    optimizer = torch.optim.AdamW(tensors, lr=LEARNING_RATE, weight_decay=DECAY, fused=True)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.step()
        return time.perf_counter() - start

    run()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--steps", type=int, default=3, help="steps per measurement")
    parser.add_argument("--leaves", nargs="*", help="only these rows")
    parser.add_argument("--quick", action="store_true", help="small trees, 20 rounds")
    args = parser.parse_args()
    rounds = 20 if args.quick else args.rounds
    torch.set_num_threads(os.cpu_count() or 1)

    ours = gradtx.adamw(LEARNING_RATE, weight_decay=DECAY)
    peer = optax.adamw(LEARNING_RATE, weight_decay=DECAY)
    rows, verdicts = [], []
    for name, params in trees(args.quick).items():
        if args.leaves and name not in args.leaves:
            continue
        contenders = {
            "gradtx": jax_contender(ours, params, args.steps),
            "gradtx as argument": jax_contender(ours, params, args.steps, as_argument=True),
            "optax": jax_contender(peer, params, args.steps),
            "optax again": jax_contender(peer, params, args.steps),
            "torch": torch_contender(params, args.steps),
        }
        seconds = common.interleaved(contenders, rounds)
        million = common.count_parameters(params) / 1e6
        medians = [f"{1e3 * statistics.median(seconds[n]) / args.steps:.2f}" for n in ("gradtx", "optax", "torch")]
        compared = [
            common.ratios(seconds[a], seconds[b])
            for a, b in (
                ("gradtx", "optax"),
                ("gradtx as argument", "optax"),
                ("optax again", "optax"),
                ("gradtx", "torch"),
                ("optax", "torch"),
            )
        ]
        rows.append([f"{name} ({million:.1f}M)", *medians, *compared])
        ratio = common.median_of_ratios(seconds["gradtx"], seconds["optax"])
        verdicts.append(common.verdict(f"{name} leaves, time over Optax's", ratio, TARGET))
    print(f"{common.machine('torch')}\n")
    print(f"{rounds} rounds of {args.steps} steps; medians, and medians of the ratios within a round with quartiles\n")
    header = ["leaves (parameters)", "gradtx ms", "Optax ms", "torch ms"]
    header += ["gradtx / Optax", "gradtx as argument / Optax", "Optax / itself", "gradtx / torch", "Optax / torch"]
    print(common.table(header, rows))
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
