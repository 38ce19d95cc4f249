"""The time of a jitted, donated AdamW step on this CPU, against Optax and torch's fused AdamW.

    python -m benchmarks.step_time [--quick]

Each round times every contender once, in a new random order, and ratios are taken within a round. Where its arrays
and its code happen to lie in memory makes a contender 5% and more faster or slower for as long as they stay there, so
all of them move many times (the code only where it compiles quickly). Optax stands in the list twice: its ratio to
itself is what noise alone does.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
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


class JaxContender:
    """An optimizer that owns its parameters; calling it gives the seconds of `steps` steps."""

    def __init__(self, tx: Any, params: Any, grads: Any, steps: int, *, as_argument: bool = False):
        self.tx, self.params, self.grads, self.steps, self.as_argument = tx, params, grads, steps, as_argument
        self.first = (tx,) if as_argument else ()
        self.step: Any = None

    def place(self, *, compile_again: bool) -> None:
        """Start anew, in new memory."""
        if self.step is None or compile_again:
            self.step = common.training_step(self.tx, as_argument=self.as_argument)
        self.held: Any = None
        self.own_grads = jax.tree.map(jnp.copy, self.grads)
        params = jax.tree.map(jnp.copy, self.params)
        self.held = params, self.tx.init(params)
        self()

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in range(self.steps):
            self.held = self.step(*self.first, *self.held, self.own_grads)
        jax.block_until_ready(self.held)
        return time.perf_counter() - start


class TorchContender:
    """torch's fused AdamW, in the same form."""

    def __init__(self, params: Any, grads: Any, steps: int):
        self.params, self.grads, self.steps = params, grads, steps

    def place(self, *, compile_again: bool) -> None:
        self.optimizer = None
        tensors = [torch.from_numpy(np.array(p)).requires_grad_() for p in jax.tree.leaves(self.params)]
        for tensor, grad in zip(tensors, jax.tree.leaves(self.grads), strict=True):
            tensor.grad = torch.from_numpy(np.array(grad))
        self.optimizer = torch.optim.AdamW(tensors, lr=LEARNING_RATE, weight_decay=DECAY, fused=True)
        self()

    def __call__(self) -> float:
        assert self.optimizer is not None
        start = time.perf_counter()
        for _ in range(self.steps):
            self.optimizer.step()
        return time.perf_counter() - start


def gradients_like(params: Any) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape, np.float32)), params)


def compare(contenders: dict[str, Any], placements: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round. Between blocks of rounds all move to new memory, in a new order."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    few = len(jax.tree.leaves(next(iter(contenders.values())).params)) <= 100  # a thousand compile for ten seconds
    rng = random.Random(0)
    for block in range(placements):
        for name in rng.sample(list(contenders), len(contenders)):
            contenders[name].place(compile_again=few)
        for name, values in common.interleaved(contenders, rounds, seed=block).items():
            seconds[name] += values
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--placements", type=int, default=24, help="how often everything moves to new memory")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in each placement")
    parser.add_argument("--steps", type=int, default=3, help="steps per measurement")
    parser.add_argument("--leaves", nargs="*", help="only these rows")
    parser.add_argument("--quick", action="store_true", help="small trees, 3 placements")
    args = parser.parse_args()
    placements = 3 if args.quick else args.placements
    torch.set_num_threads(os.cpu_count() or 1)

    ours = gradtx.adamw(LEARNING_RATE, weight_decay=DECAY)
    peer = optax.adamw(LEARNING_RATE, weight_decay=DECAY)
    rows, verdicts = [], []
    for name, params in trees(args.quick).items():
        if args.leaves and name not in args.leaves:
            continue
        grads = gradients_like(params)
        contenders = {
            "gradtx": JaxContender(ours, params, grads, args.steps),
            "gradtx as argument": JaxContender(ours, params, grads, args.steps, as_argument=True),
            "optax": JaxContender(peer, params, grads, args.steps),
            "optax again": JaxContender(peer, params, grads, args.steps),
            "torch": TorchContender(params, grads, args.steps),
        }
        seconds = compare(contenders, placements, args.rounds)
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
    design = f"{placements} placements of {args.rounds} rounds of {args.steps} steps"
    print(f"{design}; medians, and medians of the ratios within a round with quartiles\n")
    header = ["leaves (parameters)", "gradtx ms", "Optax ms", "torch ms"]
    header += ["gradtx / Optax", "gradtx as argument / Optax", "Optax / itself", "gradtx / torch", "Optax / torch"]
    print(common.table(header, rows))
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
