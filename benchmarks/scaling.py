"""What ZeRO-1 leaves on each device, and what an optimizer step sends, for models of 7 to 405 billion parameters.

    python -m benchmarks.scaling

On paper: shapes and shardings alone, over meshes of devices that are not there. The bytes are those that `init` would
allocate. What is sent is (n - 1) / n of every split gradient (scattered) and parameter (gathered), and twice that for
gradients whose state stays whole; benchmarks/zero.py finds the same for v5e 2x4, and more for larger slices.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import gradtx
from benchmarks import common

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


def row(model: Model, devices: int) -> list[str]:
    copies = devices // model.parts
    mesh = AbstractMesh((copies, model.parts), ("data", "model"))
    tx = gradtx.adamw(1e-3)
    kept, whole, held, sent = 0, 0, 0, 0.0
    for times, params in shapes_of(model, mesh):
        split = gradtx.abstract_state(gradtx.shard_state(tx, mesh, params=params), params)
        kept += 2 * times * device_bytes(params)
        whole += times * device_bytes(gradtx.abstract_state(tx, params))
        held += times * device_bytes(split)
        # Scattered and gathered, or summed everywhere: either way twice the parameters' bytes on this device.
        sent += 2 * times * device_bytes(params) * (copies - 1) / copies
    cells = [f"{n / GIB:.3g}" for n in (kept, whole, held, sent)]
    more = f"{held / (whole / copies) - 1:.2%}"
    return [model.name, f"{devices:,}", f"{copies} x {model.parts}", *cells, more]


def main() -> None:
    rows = [row(model, devices) for model in MODELS for devices in model.devices]
    header = ["", "devices", "data x model", "p and g", "state whole", "state split", "sent", "more than its share"]
    print(f"GiB on each device; AdamW, bfloat16 parameters and gradients, float32 moments; {common.machine()}\n")
    print(common.table(header, rows))


if __name__ == "__main__":
    main()
