"""An update outside of `jit`: how long it takes on 48 small leaves, and what it compiles, against Optax.

python -m benchmarks.eager [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import gradtx
from benchmarks import common

TARGET = 0.2  # of Optax's time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24, help="two leaves each, 64 x 64 and 64")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="20 rounds")
    args = parser.parse_args()
    rounds = 20 if args.quick else args.rounds

    params = {f"layer_{i}": {"w": jnp.full((64, 64), 0.5), "b": jnp.full(64, 0.5)} for i in range(args.layers)}
    grads = jax.tree.map(lambda p: p * 0.1, params)
    optimizers = {"gradtx.adamw": gradtx.adamw(1e-3), "optax.adamw": optax.adamw(1e-3)}
    changed = {
        "gradtx.adamw": optimizers["gradtx.adamw"].replace(learning_rate=3e-4),
        "optax.adamw": optax.adamw(3e-4),
    }
    states = {name: tx.init(params) for name, tx in optimizers.items()}

    def update(name: str) -> float:
        start = time.perf_counter()
        updates, states[name] = optimizers[name].update(grads, states[name], params)
        jax.block_until_ready((updates, states[name]))
        return time.perf_counter() - start

    compiled = {}
    for name in optimizers:
        jax.clear_caches()
        with common.Compilations() as first:
            update(name)
        with common.Compilations() as second:
            update(name)
        compiled[name] = [first.count, second.count]
        with common.Compilations() as again:
            jax.block_until_ready(changed[name].update(grads, states[name], params))
        compiled[name].append(again.count)

    seconds = common.interleaved({name: lambda n=name: update(n) for name in optimizers}, rounds)
    ours, peer = seconds["gradtx.adamw"], seconds["optax.adamw"]
    header = ["", "median ms", "compilations: first update", "second", "after a new learning rate"]
    rows = [[n, f"{1e3 * statistics.median(seconds[n]):.1f}", *compiled[n]] for n in optimizers]
    print(f"{common.machine()}\n")
    print(f"{len(jax.tree.leaves(params))} leaves, {rounds} rounds\n")
    print(common.table(header, rows))
    print(f"\ntime, gradtx over Optax: {common.ratios(ours, peer)}")
    print(common.verdict("time over Optax's", common.median_of_ratios(ours, peer), TARGET))
    print(common.verdict("compilations after the first update", sum(compiled["gradtx.adamw"][1:]), 0))


if __name__ == "__main__":
    main()
