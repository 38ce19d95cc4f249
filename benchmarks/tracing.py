"""How long a step takes to trace, lower and compile for a transformer of a thousand leaves, against Optax.

python -m benchmarks.tracing [--quick]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from typing import Any

import jax
import optax

import gradtx
from benchmarks import common

TARGET = 0.35  # of Optax's trace + lower


def measure(tx: Any, params: Any, *, compile_too: bool) -> tuple[dict[str, float], Any]:
    """Seconds by phase from cold caches, and the traced program."""
    state = tx.init(params)
    step = common.training_step(tx)
    jax.clear_caches()
    gc.collect()
    times = [time.perf_counter()]
    traced = step.trace(params, state, params)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    phases = {"trace": times[1] - times[0], "lower": times[2] - times[1]}
    if compile_too:
        lowered.compile()
        phases["compile"] = time.perf_counter() - times[2]
    return phases, traced


def leaf_programs(traced: Any) -> tuple[int, int]:
    """How many leaf programs a traced step calls, and how many distinct ones were traced for it."""
    calls = [e for e in traced.jaxpr.eqns if e.params.get("name") == "leaf_program"]
    return len(calls), len({id(e.params["jaxpr"]) for e in calls})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=72, help="14 leaves each")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile-rounds", type=int, default=5, help="in how many of them to compile as well")
    parser.add_argument("--quick", action="store_true", help="8 layers, 3 rounds")
    args = parser.parse_args()
    if args.quick:
        args.layers, args.rounds, args.compile_rounds = 8, 3, 1

    params = common.transformer(args.layers, args.width)
    optimizers = {"gradtx.adamw": gradtx.adamw(1e-3), "optax.adamw": optax.adamw(1e-3)}
    seconds: dict[str, dict[str, list[float]]] = {n: {"trace": [], "lower": [], "compile": []} for n in optimizers}
    traced: dict[str, Any] = {}
    done = dict.fromkeys(optimizers, 0)

    def contender(name: str) -> float:
        phases, traced[name] = measure(optimizers[name], params, compile_too=done[name] < args.compile_rounds)
        done[name] += 1
        for phase, value in phases.items():
            seconds[name][phase].append(value)
        return phases["trace"] + phases["lower"]

    measure(optimizers["optax.adamw"], common.transformer(1, 8), compile_too=True)  # imports, first use of MLIR
    totals = common.interleaved({n: lambda n=n: contender(n) for n in optimizers}, args.rounds)

    ours, peer = totals["gradtx.adamw"], totals["optax.adamw"]
    rows = []
    for name in optimizers:
        calls, distinct = leaf_programs(traced[name])
        medians = [statistics.median(seconds[name][phase]) for phase in ("trace", "lower", "compile")]
        cells = [f"{m:.2f}" for m in medians]
        programs = f"{calls} calls of {distinct}" if calls else "inlined"
        rows.append([name, *cells, programs, len(traced[name].jaxpr.eqns)])
    print(f"{common.machine()}\n")
    rounds = f"medians of {args.rounds} rounds ({args.compile_rounds} for compile)"
    print(f"{len(jax.tree.leaves(params))} leaves; {rounds}\n")
    print(common.table(["", "trace s", "lower s", "compile s", "leaf programs", "equations at top level"], rows))
    print()
    compiled = (seconds["gradtx.adamw"]["compile"], seconds["optax.adamw"]["compile"])
    print(f"trace + lower, gradtx over Optax: {common.ratios(ours, peer)}")
    print(f"compile, gradtx over Optax: {common.ratios(*compiled)}")
    print(common.verdict("trace + lower over Optax's", common.median_of_ratios(ours, peer), TARGET))


if __name__ == "__main__":
    main()
