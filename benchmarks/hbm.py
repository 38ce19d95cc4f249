"""Device-memory traffic and temporaries of one donated step, compiled ahead of time for a TPU or a GPU.

    python -m benchmarks.hbm [--quick] [--json]
    python -m benchmarks.hbm --table storage
    python -m benchmarks.hbm --target cuda

No such device is needed: the TPU's compiler is in libtpu; for CUDA see BENCHMARKS.md. One leaf of 16384 x 8192 (or as
the row says), too large for on-chip memory. Nothing is timed.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# Read when libtpu loads: do not look for a TPU, nor for the lock file that keeps it to one process.
os.environ.update(
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5litepod-8",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_WORKER_ID="0",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    TPU_LOG_DIR="disabled",
    TPU_STDERR_LOG_LEVEL="3",
    TPU_MIN_LOG_LEVEL="3",
)

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout

import gradtx
from benchmarks import common
from gradtx._rehearsal import gpus, traffic

TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2", "v5p": "v5p:2x2x1", "cuda": "1x1x1"}
SHAPE = (16384, 8192)
MAX_TEMP = 1 << 20  # bytes; a temporary like the leaf would be half a gigabyte


class Case(NamedTuple):
    """One row: `build` makes the transformation from a library (gradtx or optax), `ideal` is bytes a parameter.

    `table`: "core", or "storage" for what only gradtx has. `transposed`: whether arrays lie in memory column by column.
    """

    name: str
    ideal: float
    build: Callable[[Any], Any]
    dtype: Any = jnp.float32
    optax: bool = True
    shape: tuple[int, ...] = SHAPE
    table: str = "core"
    transposed: bool = False


def storage_cases() -> list[Case]:
    """The state in fewer bytes: for shapes that compilers lay out differently, and in the chain of a real run."""
    cases = []
    for storage, ideal in (("half", 20), ("quarter", 16)):
        for shape in (SHAPE, (9973, 10007), (48, 1024, 4096), (100_000_007,)):
            name = f"adamw, {storage}, {' x '.join(map(str, shape))}"
            build = functools.partial(_adamw, storage)
            cases.append(Case(name, ideal, build, jnp.float32, False, shape, "storage"))
        build = functools.partial(_adamw, storage)
        name = f"adamw, {storage}, 9973 x 10007, transposed"
        cases.append(Case(name, ideal, build, jnp.float32, False, (9973, 10007), "storage", transposed=True))
        whole = functools.partial(common.run_by_a_user, storage=storage)
        cases.append(
            Case(f"clipping, schedule, groups, {storage}", ideal + 4, whole, jnp.float32, False, SHAPE, "storage")
        )
    for storage, ideal in (("half", 14), ("quarter", 10)):
        name = f"adamw, {storage}, p and g bfloat16, stochastic rounding"
        build = functools.partial(_rounded, storage)
        cases.append(Case(name, ideal, build, jnp.bfloat16, False, SHAPE, "storage"))
    return cases


ROUNDINGS = {"stochastic": 22, "Kahan": 26, "float32 copy": 30, "32 bits": 26, "24 bits": 24}


def rounding_cases() -> list[Case]:
    """bfloat16 parameters and gradients, float32 moments: what each way of rounding parameters moves."""
    builds = (functools.partial(_kept, name) for name in ROUNDINGS)
    pairs = zip(ROUNDINGS.items(), builds, strict=True)
    return [Case(f"adamw, {n}", ideal, b, jnp.bfloat16, False, table="rounding") for (n, ideal), b in pairs]


def _kept(name: str, lib: Any) -> Any:
    stage = {
        "stochastic": lib.stochastic_rounding(),
        "Kahan": lib.compensated(),
        "float32 copy": lib.master_weights(),
        "32 bits": lib.master_weights(32),
        "24 bits": lib.master_weights(24),
    }[name]
    return lib.chain(lib.adamw(1e-3), stage)


def probe_cases(*, of_updates: bool) -> list[Case]:
    """What probes of what a step reads anyway move (nothing), and those of what it does not write, the update."""

    def behind(*names: str) -> Callable[[Any], Any]:
        return lambda lib: lib.chain(lib.adamw(1e-3), *(getattr(lib, name)() for name in names))

    def in_front(lib: Any) -> Any:
        return lib.chain(lib.gradient_norm(), lib.adamw(1e-3))

    norms = {
        "gradient_norm in front": in_front,
        "gradient_norm, parameter_norm": behind("gradient_norm", "parameter_norm"),
    }
    if of_updates:
        names = ("update_norm", "effective_learning_rate", "update_cosine", "second_moment_statistics")
        norms = {name: behind(name) for name in names}
    table = "update-probes" if of_updates else "probes"
    return [Case(f"adamw, {name}", 28, build, optax=False, table=table) for name, build in norms.items()]


def _adamw(storage: str, lib: Any) -> Any:
    return lib.adamw(1e-3, storage=storage)


def _rounded(storage: str, lib: Any) -> Any:
    return lib.chain(lib.adamw(1e-3, storage=storage), lib.stochastic_rounding())


CASES = [
    Case("adamw, float32", 28, lambda lib: lib.adamw(1e-3)),
    Case(
        "clip_by_global_norm + adamw, float32",
        32,
        lambda lib: lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(1e-3)),
    ),
    Case("adamw, mu bfloat16", 24, lambda lib: lib.adamw(1e-3, mu_dtype=jnp.bfloat16)),
    # Optax keeps the moments of bfloat16 parameters in bfloat16: another program, and no peer of this row.
    Case("adamw, p and g bfloat16, moments float32", 22, lambda lib: lib.adamw(1e-3), jnp.bfloat16, optax=False),
]


class Program(NamedTuple):
    """What the compiled program of one step costs."""

    case: str
    library: str
    ideal: float
    bytes_per_parameter: float
    temp_bytes: int
    flops_per_parameter: float | None
    seconds: float


def device_of(target: str) -> Any:
    """A device to compile for, which need not exist."""
    name = TOPOLOGIES[target]
    if target == "cuda":
        return gpus.devices("h100", 1, 1)[0]
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices[0]


def compile_step(
    tx: Any,
    dtype: Any,
    target: str,
    device: Any,
    *,
    as_argument: bool = False,
    shape: tuple[int, ...] = SHAPE,
    transposed: bool = False,
) -> Any:
    """The compiled donated step for one leaf."""
    placed = jax.sharding.SingleDeviceSharding(device)

    def format_of(x: Any) -> Any:
        if not transposed or not x.ndim:
            return placed
        return Format(Layout(tuple(reversed(range(x.ndim)))), placed)

    def on_device(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=format_of(x)), tree)

    params = on_device({"w": jax.ShapeDtypeStruct(shape, dtype)})
    state = on_device(jax.eval_shape(tx.init, params))
    arguments = [params, state, params]
    if as_argument:
        number = jax.ShapeDtypeStruct((), jnp.float32, weak_type=True, sharding=placed)
        arguments.insert(0, jax.tree.map(lambda _: number, tx))
    kept = jax.tree.map(format_of, (params, state)) if transposed else None
    step = common.training_step(tx, as_argument=as_argument, out_shardings=kept)
    platform = "cuda" if target == "cuda" else "tpu"
    return step.trace(*arguments).lower(lowering_platforms=(platform,)).compile()


def measure(case: Case, library: str, target: str, device: Any) -> Program:
    """Compile one row. `library`: "gradtx", "gradtx as argument" or "optax"."""
    tx = case.build(optax if library == "optax" else gradtx)
    start = time.perf_counter()
    as_argument = library == "gradtx as argument"
    options = {"as_argument": as_argument, "shape": case.shape, "transposed": case.transposed}
    compiled = compile_step(tx, case.dtype, target, device, **options)
    seconds = time.perf_counter() - start
    size = math.prod(case.shape)
    costs = compiled.cost_analysis() or {}
    return Program(
        case.name,
        library,
        case.ideal,
        traffic.hbm_bytes(compiled.as_text()) / size,
        compiled.memory_analysis().temp_size_in_bytes,
        costs["flops"] / size if "flops" in costs else None,
        seconds,
    )


TABLES: dict[str, Callable[[], list[Case]]] = {
    "core": lambda: CASES,
    "storage": storage_cases,
    "rounding": rounding_cases,
    "probes": functools.partial(probe_cases, of_updates=False),
    "update-probes": functools.partial(probe_cases, of_updates=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TOPOLOGIES, nargs="*", default=["v5e"])
    parser.add_argument("--quick", action="store_true", help="gradtx alone")
    libraries = ["gradtx", "gradtx as argument", "optax"]
    parser.add_argument("--libraries", nargs="+", choices=libraries, default=libraries)
    parser.add_argument("--table", choices=TABLES, default="core")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    args = parser.parse_args()

    missed = []
    for target in args.target:
        device = device_of(target)
        rows = []
        for case in TABLES[args.table]():
            for library in args.libraries:
                if case.table not in ("core", "storage") and library == "gradtx":
                    continue
                if library == "optax" and (args.quick or not case.optax):
                    continue
                program = measure(case, library, target, device)
                if args.json:
                    print(json.dumps({"target": target, **program._asdict()}), flush=True)
                flops = "not reported" if program.flops_per_parameter is None else f"{program.flops_per_parameter:.0f}"
                cells = [f"{case.ideal:g}", f"{program.bytes_per_parameter:.3f}", f"{program.temp_bytes:,}", flops]
                rows.append([case.name, library, *cells, f"{program.seconds:.1f}"])
                too_much = program.bytes_per_parameter > case.ideal + 0.05 or program.temp_bytes > MAX_TEMP
                if library != "optax" and too_much:
                    missed.append(f"{case.name}, {library}, {target}")
        if not args.json:
            print(f"{device.device_kind} ({TOPOLOGIES[target]}), {common.machine()}\n")
            header = ["", "", "ideal", "HBM bytes/param", "temp bytes", "flops/param", "compile s"]
            print(common.table(header, rows) + "\n")
    if not args.json:
        print(f"programs above their ideal: {'; '.join(missed) or 'none'}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
