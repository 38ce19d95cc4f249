"""ZeRO-1 in compiled programs: what a training step with a split state keeps, needs and moves on each device.

    python -m benchmarks.zero [--topology v5e:2x4] [--sides | --axes 3 8] [--only NAME ...] [--json]

Compiled ahead of time for a TPU slice or GPUs that are not there; nothing is timed. The step takes the gradient of a
stack of dense layers over a batch that is split over `data`, and steps with AdamW unless a row says otherwise. With
`--sides` the mesh has an axis for each side of the slice, `data_0`, `data_1`, and state and batch are split over all;
with `--axes` axes of these sizes. Widths that nothing divides, `--width 2049`, are what `pad=True` is for.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import gradtx
from benchmarks import common
from gradtx._rehearsal.collectives import KINDS, collectives
from gradtx._rehearsal.rehearse import device_peak
from gradtx._rehearsal.targets import data_mesh, platform_of, topology_mesh
from gradtx._sharding import in_host_memory

MIB = 1 << 20


class Case(NamedTuple):
    """One row: how the state is kept, and how the step is written."""

    name: str
    build: Callable[[Any, Any], Any]
    how: str = "step"  # or "update": Optax's protocol; or "recipe": by hand
    model: int = 1  # parts of each matrix, along a second mesh axis


def zero(tx: Any, **keywords: Any) -> Callable[[Any, Any], Any]:
    return lambda mesh, params: gradtx.shard_state(tx, mesh, data_axes(mesh), params=params, **keywords)


def data_axes(mesh: Any) -> tuple[str, ...]:
    return tuple(name for name in mesh.axis_names if name != "model")


def whole(tx: Any) -> Callable[[Any, Any], Any]:
    return lambda mesh, params: tx


ADAMW = gradtx.adamw(1e-3)
CLIPPED = gradtx.chain(gradtx.clip_by_global_norm(1.0), ADAMW)
CASES = [
    Case("whole state", whole(ADAMW)),
    Case("shard_state", zero(ADAMW)),
    Case("shard_state, pad=True", zero(ADAMW, pad=True)),
    Case("the same by hand", zero(ADAMW), "recipe"),
    Case("shard_state, update and apply_updates", zero(ADAMW), "update"),
    Case("shard_state, clip_by_global_norm", zero(CLIPPED)),
    Case("shard_state, 4 micro-batches", zero(gradtx.accumulate_gradients(ADAMW, 4))),
    Case("whole state, matrices in 2 parts", whole(ADAMW), model=2),
    Case("shard_state, matrices in 2 parts", zero(ADAMW), model=2),
    Case("shard_state, offload_state", lambda mesh, p: gradtx.offload_state(zero(ADAMW)(mesh, p))),
    Case("Muon, whole state", whole(gradtx.muon(1e-3))),
    Case("Muon, shard_state", zero(gradtx.muon(1e-3))),
    Case("SOAP, whole state", whole(gradtx.soap(1e-3))),
    Case("SOAP, shard_state", zero(gradtx.soap(1e-3))),
]


class Program(NamedTuple):
    """What one device has to do with a step."""

    case: str
    devices: int
    state_bytes: int
    state_share: float  # of the whole state
    argument_bytes: int
    temp_bytes: int
    peak_bytes: int
    host_bytes: int  # to and from the host's memory
    counts: dict[str, int]
    moved_bytes: dict[str, int]  # of the whole arrays that each kind of collective reduces or gathers
    sent_bytes: float
    gathered: dict[str, int]  # how often an array of each shape is gathered
    seconds: float


def shapes_of(mesh: Any, layers: int, width: int, parts: int) -> Any:
    """Dense layers, wide and narrow in turn, their matrices' wide sides split over `model`."""

    def on(shape: tuple[int, ...], *spec: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    axis = "model" if parts > 1 else None
    wide = {"w": on((width, 2 * width), None, axis), "b": on((2 * width,), axis)}
    narrow = {"w": on((2 * width, width), axis, None), "b": on((width,))}
    return {f"layer_{i}": narrow if i % 2 else wide for i in range(layers)}


def loss(params: Any, x: Any) -> Any:
    y = x
    for layer in params.values():
        y = jnp.tanh(y @ layer["w"] + layer["b"])
    return jnp.mean(jnp.square(y - x))


def training_step(tx: Any, how: str, params: Any) -> Callable[..., Any]:
    """`(params, state, x) -> (params, state)`."""

    def by_step(p: Any, state: Any, x: Any) -> Any:
        return gradtx.step(tx, p, state, jax.grad(loss)(p, x))

    def by_update(p: Any, state: Any, x: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(p, x), state, p)
        return gradtx.apply_updates(p, updates), state

    def by_hand(p: Any, state: Any, x: Any) -> Any:
        def constrain(tree: Any, places: Any) -> Any:
            return jax.tree.map(jax.lax.with_sharding_constraint, tree, places)

        shards = gradtx.state_shardings(tx, params).stages[0]["mu"]
        part = constrain(p, shards)
        updates, state = tx.tx.update(constrain(jax.grad(loss)(p, x), shards), state, part)
        new = constrain(gradtx.apply_updates(part, updates), shards)
        return constrain(new, jax.tree.map(lambda x: x.sharding, params)), state

    return {"step": by_step, "update": by_update, "recipe": by_hand}[how]


def measure(
    case: Case, topology: str, layers: int, width: int, *, sides: bool = False, sizes: list[int] | None = None
) -> Program:
    chips = len(topology_mesh(topology).devices.flat)
    axes = {"data": chips} if case.model == 1 else {"data": chips // case.model, "model": case.model}
    axes = {f"data_{i}": n for i, n in enumerate(sizes)} if sizes else axes
    mesh = data_mesh(topology) if sides else topology_mesh(topology, axes)
    params = shapes_of(mesh, layers, width, case.model)
    tx = case.build(mesh, params)
    state = gradtx.abstract_state(tx, params)
    batch = NamedSharding(mesh, PartitionSpec(data_axes(mesh)))
    x = jax.ShapeDtypeStruct((16 * chips // case.model, width), jnp.float32, sharding=batch)
    results = jax.tree.map(lambda x: x.sharding, (params, state)) if case.how == "recipe" else None
    start = time.perf_counter()
    step = jax.jit(training_step(tx, case.how, params), donate_argnums=(0, 1), out_shardings=results)
    compiled = step.trace(params, state, x).lower(lowering_platforms=(platform_of([*mesh.devices.flat]),)).compile()
    seconds = time.perf_counter() - start
    for said, got in zip(jax.tree.leaves((params, state)), jax.tree.leaves(compiled.output_shardings), strict=True):
        where = said.sharding
        if in_host_memory(where) and got.memory_kind is None:  # GPUs that are described only know no memories
            where = NamedSharding(got.mesh, where.spec)
        assert where.is_equivalent_to(got, len(said.shape)), (case.name, said, got)
    memory, found = compiled.memory_analysis(), collectives(compiled.as_text())
    held = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state))
    gathered: dict[str, int] = {}
    for c in found:
        if c.kind == "all-gather":
            for shape in c.shapes:
                gathered[shape] = gathered.get(shape, 0) + c.times
    return Program(
        case.name,
        chips,
        held,
        held / sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        device_peak(memory),
        memory.host_argument_size_in_bytes + memory.host_output_size_in_bytes,
        {kind: n for kind in KINDS if (n := sum(c.times for c in found if c.kind == kind))},
        {kind: n for kind in KINDS if (n := sum(c.nbytes * c.times for c in found if c.kind == kind))},
        sum(c.sent for c in found),
        gathered,
        seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", nargs="*", default=["v5e:2x4"])
    parser.add_argument("--sides", action="store_true", help="an axis of the mesh for each side of the slice")
    parser.add_argument(
        "--axes", nargs="*", type=int, help="the sizes of the mesh's axes, over all of which state is split"
    )
    parser.add_argument("--only", nargs="*", help="these rows")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    args = parser.parse_args()
    if args.sides or args.axes:  # the others say how they lie on a mesh of their own
        args.only = args.only or [c.name for c in CASES if c.model == 1 and c.how != "recipe"]
    for topology in args.topology:
        rows = []
        for case in CASES:
            if args.only and case.name not in args.only:
                continue
            program = measure(case, topology, args.layers, args.width, sides=args.sides, sizes=args.axes)
            if args.json:
                print(json.dumps({"topology": topology, **program._asdict()}), flush=True)
            sizes = [
                program.state_bytes,
                program.argument_bytes,
                program.temp_bytes,
                program.peak_bytes,
                program.host_bytes,
                program.sent_bytes,
            ]
            counts = ", ".join(f"{n} {kind}" for kind, n in program.counts.items())
            rows.append([case.name, *(f"{size / MIB:.1f}" for size in sizes), counts])
        if not args.json:
            about = f"{topology}{', an axis for each side' if args.sides else ''}"
            about += f", axes of {' x '.join(map(str, args.axes))}" if args.axes else ""
            about += f", {args.layers} matrices of {args.width} x {2 * args.width}; MiB on each device"
            header = ["", "state", "arguments", "temporary", "peak", "host", "sent", "collectives"]
            print(f"{about}; {common.machine()}\n\n{common.table(header, rows)}\n")


if __name__ == "__main__":
    main()
