"""Every optimizer against Optax's of the same name: digits of its update, time of its step, time to trace it.

    python -m benchmarks.catalogue [--accuracy] [--time] [--trace] [--only adam lion ...]

Run it from the root of the repository: the optimizers are the rows of the tests' table (tests/zoo.py), with the
arguments that stand there and a learning rate that float32 holds exactly.
"""

from __future__ import annotations

import argparse
import functools
import gc
import pathlib
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from benchmarks import common

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from reference import ORACLES, sweep
from zoo import OPTIMIZERS, Row

LR = 2.0**-10
CHECKPOINTS = (1, 10, 100, 1_000, 10_000)
SIZE = 64
TIME_TARGET, MEDIAN_TARGET = 1.05, 1.0

# torch.optim's class and keywords, where its formula is the same up to where a tiny epsilon stands.
TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd_momentum": ("SGD", {"momentum": 0.9}),
    "sgd_nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {}),
    "adamax": ("Adamax", {}),
    "radam": ("RAdam", {}),
    "adadelta": ("Adadelta", {}),
}


def keywords(row: Row) -> dict[str, Any]:
    return {**row.base, **({"learning_rate": LR} if "learning_rate" in row.base else {})}


def rows(only: list[str] | None) -> list[Row]:
    """The optimizers that Optax has too."""
    return [row for row in OPTIMIZERS if row.optax is not None and (not only or row.name in only)]


# ---- digits ----


def torch_updates(name: str, grads: np.ndarray) -> dict[int, np.ndarray]:
    """torch's updates, as what it writes into parameters that are zero."""
    import torch

    kind, arguments = TORCH[name]
    param = torch.zeros(grads.shape[1], requires_grad=True)
    optimizer = getattr(torch.optim, kind)([param], lr=LR, foreach=False, **arguments)
    data, found = torch.from_numpy(np.array(grads)), {}
    for t in range(1, len(grads) + 1):
        param.detach().zero_()
        param.grad = data[t - 1]
        optimizer.step()
        if t in CHECKPOINTS:
            found[t] = param.detach().numpy().copy()
    return found


def accuracy(only: list[str] | None) -> str:
    lines = []
    params = np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)
    for row in OPTIMIZERS:
        if (only and row.name not in only) or row.name not in ORACLES or row.mixes:
            continue
        grads = sweep.gradients("gaussian", max(CHECKPOINTS), SIZE)
        try:
            exact = sweep.exact_updates(ORACLES[row.name](**keywords(row)), grads, params, CHECKPOINTS)
            found = {"gradtx": sweep.compiled_updates(row.make(**keywords(row)), grads, params, CHECKPOINTS)}
            if row.optax is not None:
                peer = row.optax(**keywords(row))
                found["Optax"] = sweep.compiled_updates(peer, grads, params, CHECKPOINTS)
        except Exception as error:
            print(f"{row.name}: not measured: {error}", file=sys.stderr)
            continue
        if row.name in TORCH:
            found["torch"] = torch_updates(row.name, grads)
        for library, updates in found.items():
            errors = sweep.errors(updates, exact)
            lines.append([row.name, library, *(f"{errors[t]:.2f}" for t in CHECKPOINTS)])
            print(*lines[-1], file=sys.stderr, flush=True)
    return common.table(["optimizer", "library", *(f"t = {t:,}" for t in CHECKPOINTS)], lines)


# ---- the time of a step ----


class Contender:
    """A jitted, donated step that owns its parameters; calling it gives the seconds of some steps."""

    def __init__(self, tx: Any, params: Any, grads: Any, steps: int, given: dict[str, Any]):
        self.tx, self.params, self.grads, self.steps, self.given = tx, params, grads, steps, given

    def place(self) -> None:
        """Compile again, and move to new memory."""
        self.step = common.training_step(self.tx, keywords=self.given)
        params = jax.tree.map(jnp.copy, self.params)
        # Copied, since some of Optax's states hold an array twice, which cannot be donated.
        self.held: Any = jax.tree.map(jnp.copy, (params, self.tx.init(params)))
        self()

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in range(self.steps):
            self.held = self.step(*self.held, self.grads)
        jax.block_until_ready(self.held)
        return time.perf_counter() - start


def step_time(only: list[str] | None, placements: int, rounds: int, steps: int) -> str:
    params = {f"w_{i}": jnp.full((256, 512), 0.5) for i in range(16)}
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape, np.float32)), params)
    lines, medians = [], []
    for row in rows(only):
        make = {"gradtx": row.make, "Optax": row.optax, "Optax again": row.optax}
        contenders = {
            name: Contender(f(**keywords(row)), params, grads, steps, row.keywords)  # type: ignore[misc]
            for name, f in make.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        try:
            for block in range(placements):
                for contender in contenders.values():
                    contender.place()
                for name, values in common.interleaved(contenders, rounds, seed=block).items():  # type: ignore[arg-type]
                    seconds[name] += values
        except Exception as error:
            print(f"{row.name}: not measured: {error}", file=sys.stderr)
            continue
        medians.append(common.median_of_ratios(seconds["gradtx"], seconds["Optax"]))
        lines.append(
            [
                row.name,
                *(f"{1e3 * statistics.median(seconds[n]) / steps:.2f}" for n in ("gradtx", "Optax")),
                common.ratios(seconds["gradtx"], seconds["Optax"]),
                common.ratios(seconds["Optax again"], seconds["Optax"]),
            ]
        )
        print(*lines[-1], file=sys.stderr, flush=True)
    names = ", ".join(f"{line[0]} {m:.2f}" for line, m in zip(lines, medians, strict=True) if m > TIME_TARGET)
    verdicts = [
        f"above {TIME_TARGET} of Optax's time: {names or 'none'}",
        common.verdict("median of all", statistics.median(medians), MEDIAN_TARGET),
    ]
    head = f"{len(params)} leaves, {common.count_parameters(params) / 1e6:.1f}M parameters; {placements} placements of "
    head += f"{rounds} rounds of {steps} steps"
    shown = common.table(["optimizer", "gradtx ms", "Optax ms", "gradtx / Optax", "Optax / itself"], lines)
    return f"{head}\n\n{shown}\n\n" + "\n".join(verdicts)


# ---- tracing ----


def trace_seconds(tx: Any, params: Any, given: dict[str, Any]) -> float:
    """To trace and lower a step, from cold caches."""
    state, step = tx.init(params), common.training_step(tx, keywords=given)
    jax.clear_caches()
    gc.collect()
    start = time.perf_counter()
    step.trace(params, state, params).lower()
    return time.perf_counter() - start


def trace_time(only: list[str] | None, rounds: int) -> str:
    params, lines, all_ratios = common.transformer(24, 8), [], []
    for row in rows(only):
        assert row.optax is not None
        make = {"gradtx": row.make(**keywords(row)), "Optax": row.optax(**keywords(row))}
        try:
            contenders = {name: functools.partial(trace_seconds, tx, params, row.keywords) for name, tx in make.items()}
            seconds = common.interleaved(contenders, rounds)
        except Exception as error:
            print(f"{row.name}: not measured: {error}", file=sys.stderr)
            continue
        all_ratios.append(common.median_of_ratios(seconds["gradtx"], seconds["Optax"]))
        lines.append([row.name, *(f"{statistics.median(seconds[n]):.2f}" for n in make), f"{all_ratios[-1]:.2f}"])
        print(*lines[-1], file=sys.stderr, flush=True)
    shown = common.table(["optimizer", "gradtx s", "Optax s", "gradtx / Optax"], lines)
    leaves = len(jax.tree.leaves(params))
    return f"{leaves} leaves; medians of {rounds} rounds\n\n{shown}\n\nmedian {statistics.median(all_ratios):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("accuracy", "time", "trace"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--placements", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--trace-rounds", type=int, default=3)
    options = parser.parse_args()
    every = not (options.accuracy or options.time or options.trace)
    print(f"gradtx {gradtx.__version__}; {common.machine()}\n")
    if options.accuracy or every:
        print(f"Median error of the update in float32 ULP, gaussian gradients\n\n{accuracy(options.only)}\n")
    if options.time or every:
        print(step_time(options.only, options.placements, options.rounds, options.steps) + "\n")
    if options.trace or every:
        print(trace_time(options.only, options.trace_rounds))


if __name__ == "__main__":
    main()
