"""The time of a jitted, donated step on the GPU that JAX finds, against Optax and torch on the same card.

    python -m benchmarks.gpu_time [--out table.md]
    python -m benchmarks.gpu_time --catalogue
    JAX_PLATFORMS=cuda,cpu python -m benchmarks.gpu_time --numbers

AdamW first: one leaf, 40 leaves, bfloat16 parameters, the chain of a training run, and a thousand small leaves. Each
round measures every contender once, in a new random order, and ratios are taken within a round. "Ideal" is what a
step must read and write: parameters and state twice, gradients once for every pass over them; GB/s is that over the
time, and "of a copy" compares it with reading and writing one large array in the same rounds. "Program" is what the
compiled program moves, read off its text, and "temp" what it takes beside its arguments.

`--catalogue` times every optimizer that Optax has too; `--numbers` takes ten steps here and on the CPU and says how far
they are apart (benchmarks.gpu_numbers).
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch lives on the same card

import jax
import jax.numpy as jnp
import optax

import gradtx
from benchmarks import catalogue, common, gpu_numbers
from benchmarks import gpu_contenders as gpu

STORAGES = ("bfloat16", "half", "quarter", "log16")
ORTHOGONALIZING = {"muon"}  # on matrices of 2048 x 2048 at most


class Log:
    """Print at once, and into a file too, so that a run that is cut off leaves its rows."""

    def __init__(self, out: pathlib.Path | None):
        self.file = out.open("w") if out else None

    def __call__(self, text: str = "") -> None:
        print(text, flush=True)
        if self.file:
            print(text, file=self.file, flush=True)


class Comparison(NamedTuple):
    """One table: parameters, and who steps them, built from (shapes, gradients)."""

    name: str
    shapes: Any
    contenders: Callable[[Any, Any], dict[str, gpu.Contender]]


# ---- who takes part ----


def adamw(lib: Any, storage: Any = None, **keywords: Any) -> Any:
    given = {"storage": storage} if storage else {}
    return lib.adamw(gpu.LEARNING_RATE, weight_decay=gpu.DECAY, **given, **keywords)


def peers(tx: Any, shapes: Any, grads: Any, *, whole: bool = False) -> dict[str, gpu.Contender]:
    """Optax's `tx`, once more to see the noise, and torch's AdamW."""
    peer = gpu.JaxContender(tx, shapes, grads, passes=1 + whole)
    found: dict[str, gpu.Contender] = {"Optax": peer, "Optax again": gpu.Again(peer)}
    if gpu.torch_device():
        found["torch fused"] = gpu.TorchContender(shapes, fused=True, whole=whole)
        found["torch foreach"] = gpu.TorchContender(shapes, foreach=True, whole=whole)
    return found


def in_float32(storages: tuple[str, ...]) -> Callable[[Any, Any], dict[str, gpu.Contender]]:
    def contenders(shapes: Any, grads: Any) -> dict[str, gpu.Contender]:
        found = peers(adamw(optax), shapes, grads)
        found["gradtx"] = gpu.JaxContender(adamw(gradtx), shapes, grads)
        found["gradtx as argument"] = gpu.JaxContender(adamw(gradtx), shapes, grads, as_argument=True)
        for storage in storages:
            found[f"gradtx {storage}"] = gpu.JaxContender(adamw(gradtx, storage), shapes, grads)
        return found

    return contenders


def in_bfloat16(shapes: Any, grads: Any) -> dict[str, gpu.Contender]:
    peer = adamw(optax, mu_dtype=jnp.bfloat16)  # and nu in the dtype of the parameters
    found = peers(peer, shapes, grads)
    found["gradtx, to nearest"] = gpu.JaxContender(adamw(gradtx), shapes, grads)
    for storage in (None, "bfloat16", "half", "quarter"):
        tx = gradtx.chain(adamw(gradtx, storage), gradtx.stochastic_rounding())
        found[f"gradtx {storage or 'float32'}, stochastic"] = gpu.JaxContender(tx, shapes, grads)
    tx = gradtx.chain(adamw(gradtx, "half"), gradtx.master_weights(32))
    found["gradtx half, 32-bit weights"] = gpu.JaxContender(tx, shapes, grads)
    return found


def of_a_run(shapes: Any, grads: Any) -> dict[str, gpu.Contender]:
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 10_000)
    groups = {"bias": optax.adam(rate), "rest": optax.adamw(rate, weight_decay=0.1)}
    labels = jax.tree.map_with_path(lambda path, _: "bias" if path[-1].key == "bias" else "rest", shapes)
    peer = optax.chain(optax.clip_by_global_norm(1.0), optax.partition(groups, labels))
    found = peers(peer, shapes, grads, whole=True)
    for storage in ("float32", "half", "quarter"):
        tx = common.run_by_a_user(gradtx, storage)
        found[f"gradtx {storage}"] = gpu.JaxContender(tx, shapes, grads, passes=2)
    return found


def comparisons(*, small: bool) -> list[Comparison]:
    """One leaf, forty, a training run's chain, bfloat16, and a thousand leaves last: they compile longest."""
    side, part, layers, many = (256, 64, 2, 4) if small else (16384, 2592, 72, 40)

    def matrix(n: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n, n), dtype)

    bias = jax.ShapeDtypeStruct((part,), jnp.float32)
    decoder = jax.eval_shape(lambda: common.transformer(layers, 128))
    decoder = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32), decoder)
    forty = {f"w_{i:02}": matrix(part) for i in range(many)}
    layered = {f"layer_{i:02}": {"kernel": matrix(part), "bias": bias} for i in range(many)}
    return [
        Comparison("one matrix", {"w": matrix(side)}, in_float32(STORAGES)),
        Comparison("equal matrices", forty, in_float32(STORAGES)),
        Comparison("bfloat16 parameters and gradients", {"w": matrix(side, jnp.bfloat16)}, in_bfloat16),
        Comparison("clipping, schedule, groups", layered, of_a_run),
        Comparison("a transformer of small leaves", decoder, in_float32(("half", "quarter"))),
    ]


# ---- the tables of AdamW ----


def compare(one: Comparison, say: Log, rounds: int, threads: int, copied: int) -> None:
    """Measure one table and print it."""
    start = time.perf_counter()
    grads = gpu.normal(one.shapes, 1.0, seed=3)
    contenders = gpu.compile_all(one.contenders(one.shapes, grads), say, threads)
    contenders["copy"] = gpu.Copy(copied)
    compiling = time.perf_counter() - start
    contenders = gpu.place_all(contenders, say)
    with common.Compilations() as again:
        seconds = common.interleaved(dict(contenders), rounds)
    parameters = common.count_parameters(one.shapes)
    copy = statistics.median(seconds["copy"]) / contenders["copy"].ideal if "copy" in seconds else float("nan")
    rows = []
    for name, values in seconds.items():
        who, spent = contenders[name], statistics.median(values)
        each = 0 if name == "copy" else parameters
        ratios = [
            common.ratios(values, seconds[peer]) if peer in seconds and each else ""
            for peer in ("Optax", "torch fused")
        ]
        moved = "" if who.moved is None else f"{who.moved / each:.1f}"
        temp = "" if who.temp is None else f"{who.temp / 2**20:.1f}"
        speed = [f"{who.ideal / spent / 1e9:.0f}", f"{who.ideal * copy / spent:.2f}"]
        host = f"{1e3 * statistics.median(who.enqueued):.3f}"
        ideal = f"{who.ideal / each:.1f}" if each else "8 an element"
        rows.append([name, f"{1e3 * spent:.3f}", ideal, *speed, *ratios, moved, temp, host, who.steps])
    header = ["", "ms", "ideal bytes/param", "GB/s", "of a copy", "/ Optax", "/ torch fused"]
    header += ["program bytes/param", "temp MiB", "host ms", "steps"]
    leaves = len(jax.tree.leaves(one.shapes))
    say(f"## {one.name} ({leaves} leaves, {parameters / 1e6:.1f}M parameters), {rounds} rounds\n")
    say(common.table(header, rows))
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    told = "not reported" if peak is None else f"{peak / 2**30:.1f} GiB"
    say(f"\ncompiled side by side in {compiling:.0f} s, all in {time.perf_counter() - start:.0f} s; ")
    say(f"JAX's peak of memory so far {told}; programs compiled while timing: {again.count}\n")


# ---- every optimizer ----


def catalogue_shapes(name: str, *, small: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """Two matrices and a vector, 64M parameters; fewer for what multiplies matrices."""
    if small:
        sizes: tuple[tuple[int, ...], ...] = ((64, 64), (32, 64), (1000,))
    elif name in ORTHOGONALIZING:
        sizes = ((2048, 2048), (1024, 2048), (4096,))
    else:
        sizes = ((6144, 6144), (4096, 6144), (1_000_000,))
    return {f"w_{i}": jax.ShapeDtypeStruct(s, jnp.float32) for i, s in enumerate(sizes)}


def every_optimizer(only: list[str] | None, say: Log, rounds: int, threads: int, *, small: bool, until: float) -> None:
    """A row for each optimizer that Optax has too, in batches that compile side by side and are then timed alone."""
    say("## Every optimizer\n")
    header = ["optimizer", "gradtx ms", "Optax ms", "gradtx / Optax", "Optax / itself"]
    header += ["gradtx temp MiB", "Optax temp MiB", "program bytes/param", "Optax's"]
    say(common.table(header, []))
    rows, medians = catalogue.rows(only), {}
    batch = max(1, threads // 2)
    for first in range(0, len(rows), batch):
        if time.perf_counter() > until:
            say(f"\nout of time: not measured: {', '.join(r.name for r in rows[first:])}")
            break
        gpu.free()
        contenders: dict[str, gpu.Contender] = {}
        for row in rows[first : first + batch]:
            shapes = catalogue_shapes(row.name, small=small)
            grads, make = gpu.normal(shapes, 1.0, seed=3), catalogue.keywords(row)
            assert row.optax is not None
            for library, build in (("gradtx", row.make), ("Optax", row.optax)):
                try:
                    tx = build(**make)
                except Exception as error:
                    say(f"{row.name}, {library}: not measured: {error}")
                    continue
                contenders[f"{row.name}, {library}"] = gpu.JaxContender(tx, shapes, grads, keywords=row.keywords)
        contenders = gpu.compile_all(contenders, say, threads)
        for row in rows[first : first + batch]:
            mine = {n: contenders.pop(f"{row.name}, {n}", None) for n in ("gradtx", "Optax")}
            if None in mine.values():
                continue
            mine["Optax again"] = gpu.Again(mine["Optax"])  # type: ignore[arg-type]
            placed = gpu.place_all({f"{row.name}, {n}": c for n, c in mine.items() if c}, say)
            if len(placed) < len(mine):
                continue
            seconds = common.interleaved({n: c for n, c in mine.items() if c}, rounds)
            medians[row.name] = common.median_of_ratios(seconds["gradtx"], seconds["Optax"])
            say(f"| {' | '.join(_catalogue_row(row.name, mine, seconds))} |")
            del mine, placed
    if medians:
        target, above = catalogue.TIME_TARGET, sorted(medians.items(), key=lambda item: -item[1])
        names = ", ".join(f"{name} {m:.2f}" for name, m in above if m > target)
        say(f"\nabove {target} of Optax's time: {names or 'none'}")
        say(common.verdict("median of all", statistics.median(list(medians.values())), catalogue.MEDIAN_TARGET) + "\n")


def _catalogue_row(name: str, mine: dict[str, Any], seconds: dict[str, list[float]]) -> list[str]:
    pair = [mine["gradtx"], mine["Optax"]]
    parameters = common.count_parameters(pair[0].shapes)
    return [
        name,
        *(f"{1e3 * statistics.median(seconds[n]):.3f}" for n in ("gradtx", "Optax")),
        common.ratios(seconds["gradtx"], seconds["Optax"]),
        common.ratios(seconds["Optax again"], seconds["Optax"]),
        *("" if c.temp is None else f"{c.temp / 2**20:.1f}" for c in pair),
        *("" if c.moved is None else f"{c.moved / parameters:.1f}" for c in pair),
    ]


def where(say: Log) -> None:
    device = jax.devices()[0]
    say(f"{device.device_kind} ({device.platform}); {common.machine(*(['torch'] if gpu.torch is not None else []))}")
    if gpu.torch_device() == "cuda":
        say(f"torch on {gpu.torch.cuda.get_device_name()}, CUDA {gpu.torch.version.cuda}")
    elif gpu.torch_device() is None:
        say("torch finds no GPU (or is not installed): its rows are left out")
    say()


def main() -> None:
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalogue", action="store_true", help="every optimizer instead of AdamW")
    parser.add_argument("--numbers", action="store_true", help="ten steps against the CPU instead")
    parser.add_argument("--only", nargs="*", help="rows of the catalogue, or what is named like these")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=min(16, os.cpu_count() or 1), help="that compile at once")
    parser.add_argument("--budget", type=float, default=240, help="seconds after which nothing new is begun")
    parser.add_argument("--out", type=pathlib.Path, help="a file that gets what is printed")
    parser.add_argument("--allow-cpu", action="store_true", help="try it out without a GPU, on small arrays")
    args = parser.parse_args()
    small = jax.devices()[0].platform == "cpu"
    if small and not args.allow_cpu:
        sys.exit(f"expected a GPU, JAX found {jax.devices()}; --allow-cpu tries the script out on small arrays")
    say, until = Log(args.out), started + args.budget
    where(say)
    if args.numbers:
        gpu_numbers.check(say, args.only, small=small)
    elif args.catalogue:
        every_optimizer(args.only, say, args.rounds, args.threads, small=small, until=until)
    else:
        for one in comparisons(small=small):
            if args.only and not any(part in one.name for part in args.only):
                continue
            if time.perf_counter() > until:
                say(f"{one.name}: out of time")
                continue
            try:
                compare(one, say, args.rounds, args.threads, 2**16 if small else 2**28)
            except Exception as error:
                say(f"{one.name}: not measured: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
            gpu.free()
    say(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
