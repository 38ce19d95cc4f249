"""What ZeRO-1 leaves on each device, and what an optimizer step sends, for models of 7 to 405 billion parameters.

    python -m benchmarks.scaling [--compile h100]

On paper: shapes and shardings alone, over meshes of devices that are not there. The bytes are those that `init` would
allocate. What is sent is (n - 1) / n of every split gradient (scattered) and parameter (gathered), and twice that for
gradients whose state stays whole; benchmarks/zero.py finds the same for v5e 2x4, and more for larger slices.

With `--compile` the optimizer's step is compiled for as many GPUs of that kind, 8 to a host, once for a layer and once
for the rest: gradients of dense layers over a batch that is split over `data`, then `gradtx.step`.
"""

from __future__ import annotations

import argparse
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import gradtx
from benchmarks import common
from gradtx._rehearsal.collectives import collectives
from gradtx._rehearsal.gpus import GPUS
from gradtx._rehearsal.targets import topology_mesh
from gradtx._sharding import full_spec

GIB = 1 << 30


class Model(NamedTuple):
    """A decoder, as its authors describe it; `parts` devices hold one copy of the parameters."""

    name: str
    layers: int
    width: int
    hidden: int
    keys: int  # width of keys and of values
    vocabulary: int
    parts: int
    devices: tuple[int, ...]


# Touvron et al., arXiv:2307.09288; Grattafiori et al., arXiv:2407.21783, table 3.
MODELS = [
    Model("7B (Llama 2)", 32, 4096, 11008, 4096, 32000, 1, (8, 64, 512, 4096)),
    Model("70B (Llama 3)", 80, 8192, 28672, 1024, 128256, 8, (64, 512, 4096)),
    Model("405B (Llama 3)", 126, 16384, 53248, 1024, 128256, 16, (256, 1024, 4096)),
]


def shapes_of(model: Model, mesh: Any) -> list[tuple[int, dict[str, Any]]]:
    """Parameters in bfloat16, matrices split over `model` by columns or rows: trees, and how often each occurs."""

    def on(shape: tuple[int, ...], *spec: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    d, h, k = model.width, model.hidden, model.keys
    once = {
        "embedding": on((model.vocabulary, d), "model"),
        "head": on((d, model.vocabulary), None, "model"),
        "norm": on((d,)),
    }
    layer = {
        **{name: on((d, n), None, "model") for name, n in {"q": d, "k": k, "v": k, "gate": h, "up": h}.items()},
        "out": on((d, d), "model"),
        "down": on((h, d), "model"),
        "norm_1": on((d,)),
        "norm_2": on((d,)),
    }
    return [(1, once), (model.layers, layer)]


def device_bytes(tree: Any) -> int:
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def compiled(tx: Any, params: Any, copies: int) -> Any:
    """The program of a step, with the gradients of dense layers for parameters and a row of the batch for each copy."""
    mesh = next(iter(params.values())).sharding.mesh
    state = gradtx.abstract_state(tx, params)

    def on(n: int, axis: Any) -> jax.ShapeDtypeStruct:
        where = NamedSharding(mesh, PartitionSpec("data", axis))
        return jax.ShapeDtypeStruct((copies, n), jnp.bfloat16, sharding=where)

    batch = {
        name: [on(n, axis) for n, axis in zip(p.shape, full_spec(p.sharding.spec, p.ndim), strict=True)]
        for name, p in params.items()
    }

    def step(params: Any, state: Any, batch: Any) -> Any:
        grads = {name: b[0].sum(0) if len(b) == 1 else jnp.einsum("bm,bn->mn", *b) for name, b in batch.items()}
        return gradtx.step(tx, params, state, grads)

    program = jax.jit(step, donate_argnums=(0, 1)).trace(params, state, batch)
    program = program.lower(lowering_platforms=("cuda",)).compile()
    held = program.memory_analysis().argument_size_in_bytes
    assert held == sum(map(device_bytes, (params, state, batch))), held
    return program


def row(model: Model, devices: int, gpu: str | None) -> list[str]:
    copies = devices // model.parts
    mesh: Any = AbstractMesh((copies, model.parts), ("data", "model"))
    if gpu is not None:
        name = f"{gpu}:{devices // 8}x8" if devices > 8 else f"{gpu}:{devices}"
        mesh = topology_mesh(name, {"data": copies, "model": model.parts})
    tx = gradtx.adamw(1e-3)
    kept, whole, held, sent, found = 0, 0, 0, 0.0, 0.0
    for times, params in shapes_of(model, mesh):
        sharded = gradtx.shard_state(tx, mesh, params=params)
        split = gradtx.abstract_state(sharded, params)
        kept += 2 * times * device_bytes(params)
        whole += times * device_bytes(gradtx.abstract_state(tx, params))
        held += times * device_bytes(split)
        # Scattered and gathered, or summed everywhere: either way twice the parameters' bytes on this device.
        sent += 2 * times * device_bytes(params) * (copies - 1) / copies
        if gpu is not None:
            found += times * sum(c.sent for c in collectives(compiled(sharded, params, copies).as_text()))
    cells = [f"{n / GIB:.3g}" for n in (kept, whole, held, sent)]
    if gpu is not None:
        cells.append(f"{found / GIB:.3g} ({found / sent:.4f})")
    more = f"{held / (whole / copies) - 1:.2%}"
    return [model.name, f"{devices:,}", f"{copies} x {model.parts}", *cells, more]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", choices=GPUS, help="GPUs to compile for")
    gpu = parser.parse_args().compile
    rows = [row(model, devices, gpu) for model in MODELS for devices in model.devices]
    header = ["", "devices", "data x model", "p and g", "state whole", "state split", "sent", "more than its share"]
    if gpu is not None:
        header.insert(7, f"by the program for {gpu} (of that)")
    print(f"GiB on each device; AdamW, bfloat16 parameters and gradients, float32 moments; {common.machine()}\n")
    print(common.table(header, rows))


if __name__ == "__main__":
    main()
