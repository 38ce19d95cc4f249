"""The time of a jitted, donated AdamW step on this CPU with its state in fewer bytes, against Optax and torch.

    python -m benchmarks.storage_time

As `benchmarks.step_time` measures: rounds interleaved, arrays and code moved many times, ratios within a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp
import optax
import torch

import gradtx
from benchmarks import common
from benchmarks.step_time import DECAY, LEARNING_RATE, JaxContender, TorchContender, compare, gradients_like


def two_passes(params: Any, words: Any, grads: Any) -> tuple[Any, Any]:
    """What a step with four bytes of state reads and writes, in two passes as XLA:CPU makes them, only adding."""
    words = jax.tree.map(lambda w, g: w + jax.lax.bitcast_convert_type(g, jnp.uint32), words, grads)
    words = jax.lax.optimization_barrier(words)
    return jax.tree.map(lambda p, w: p + jax.lax.bitcast_convert_type(w >> 2, jnp.float32), params, words), words


class Floor(JaxContender):
    """Two passes over the same bytes: as fast as XLA:CPU could be at that step."""

    def __init__(self, params: Any, grads: Any, steps: int):
        super().__init__(optax.GradientTransformation(self._words, None), params, grads, steps)  # type: ignore[arg-type]

    @staticmethod
    def _words(params: Any) -> Any:
        return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.uint32), params)

    def place(self, *, compile_again: bool) -> None:
        if self.step is None or compile_again:
            self.step = jax.jit(lambda *arrays: two_passes(*arrays), donate_argnums=(0, 1))
        super().place(compile_again=False)


TARGETS = [("half", "torch", 0.95), ("half", "optax", 0.7), ("quarter", "optax", 1.0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--placements", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4, help="rounds in each placement")
    parser.add_argument("--steps", type=int, default=2, help="steps per measurement")
    parser.add_argument("--storages", nargs="+", default=["float32", "half", "quarter", "bfloat16", "log16"])
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    trees = {
        "1 (16.8M)": {"w": jnp.full((4096, 4096), 0.5)},
        "40 (16.8M)": {f"w_{i}": jnp.full((648, 648), 0.5) for i in range(40)},
    }
    rows, verdicts = [], []
    for name, params in trees.items():
        grads = gradients_like(params)
        peer = optax.adamw(LEARNING_RATE, weight_decay=DECAY)
        contenders = {"optax": JaxContender(peer, params, grads, args.steps)}
        contenders["optax again"] = JaxContender(peer, params, grads, args.steps)
        contenders["torch"] = TorchContender(params, grads, args.steps)
        contenders["half's bytes in two passes"] = Floor(params, grads, args.steps)
        for storage in args.storages:
            tx = gradtx.adamw(LEARNING_RATE, weight_decay=DECAY, storage=storage)
            contenders[storage] = JaxContender(tx, params, grads, args.steps)
        seconds = compare(contenders, args.placements, args.rounds)
        for contender, values in seconds.items():
            against = [common.ratios(values, seconds[peer]) for peer in ("optax", "torch")]
            rows.append([name, contender, f"{1e3 * statistics.median(values) / args.steps:.1f}", *against])
        for storage, peer, target in TARGETS:
            if storage in seconds:
                ratio = common.median_of_ratios(seconds[storage], seconds[peer])
                verdicts.append(common.verdict(f"{name} leaves, {storage} over {peer}", ratio, target))
    print(f"{common.machine('torch')}\n")
    design = f"{args.placements} placements of {args.rounds} rounds of {args.steps} steps"
    print(f"{design}; medians, and ratios with quartiles\n")
    print(common.table(["leaves", "state", "ms", "over Optax's", "over torch's"], rows))
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
