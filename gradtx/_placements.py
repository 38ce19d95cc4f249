"""How arrays lie on a mesh: the rule by which they are split further, and where a caller's parameters are."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from gradtx._core import trees
from gradtx._sharding import full_spec

MIN_SIZE = 1 << 14  # elements; smaller arrays are not worth a collective or a transfer of their own
TILE = (8, 128)  # of a TPU's memory: shorter last axes are padded to it


def split_spec(
    shape: tuple[int, ...], spec: PartitionSpec, mesh: Any, axes: tuple[str, ...], min_size: int
) -> tuple[Any, ...]:
    """How an array is split further over mesh axes: one entry a dimension.

    Each mesh axis that the array is not split over yet takes the dimension that it divides: one that is whole before
    one that is split already, that whose parts are padded least in a TPU's tiles of 8 x 128, the longest, the first.
    Without one, and where the array is smaller than `min_size`, nothing changes.
    """
    entries = [names_in(entry) for entry in full_spec(spec, len(shape))]
    if math.prod(shape) < min_size:
        axes = ()
    for axis in axes:
        parts = mesh.shape[axis]
        if parts == 1 or any(axis in names for names in entries):
            continue
        local = local_shape(shape, entries, mesh)
        fitting = [d for d, n in enumerate(local) if n and n % parts == 0]
        if fitting:
            best = min(fitting, key=lambda d: (bool(entries[d]), in_tiles(local, d, parts), -local[d], d))
            entries[best] = (*entries[best], axis)
    return entries_of(entries)


def entries_of(names: list[tuple[str, ...]]) -> tuple[Any, ...]:
    """For each dimension the mesh axes that split it, as the entries of a spec."""
    return tuple(None if not axes else axes[0] if len(axes) == 1 else axes for axes in names)


def local_shape(shape: tuple[int, ...], entries: list[tuple[str, ...]], mesh: Any) -> list[int]:
    """What a device holds of an array that is split like this."""
    return [n // math.prod(mesh.shape[a] for a in axes) for n, axes in zip(shape, entries, strict=True)]


def names_in(entry: Any) -> tuple[str, ...]:
    """The mesh axes in an entry of a spec."""
    if entry is None:
        return ()
    return tuple(entry) if isinstance(entry, (tuple, list)) else (entry,)


def in_tiles(local: list[int], dimension: int, parts: int) -> int:
    """The elements that a device holds, in whole tiles, if this dimension is split."""
    sizes = [n // parts if d == dimension else n for d, n in enumerate(local)]
    tiled = [-(-n // tile) * tile for n, tile in zip(reversed(sizes), reversed(TILE), strict=False)]
    return math.prod(sizes[: -len(tiled)]) * math.prod(tiled)


def placements_of(params: Any, mesh: Any) -> Any:
    """The specs of parameters on a mesh, in their order; one alone if it is that of all.

    Raises:
        ValueError: a parameter is on another mesh, or on one device.
    """
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, (NamedSharding, PartitionSpec)))
    specs = []
    for i, leaf in enumerate(leaves):
        place = leaf if isinstance(leaf, (NamedSharding, PartitionSpec)) else getattr(leaf, "sharding", None)
        if isinstance(leaf, jax.Array) and not leaf.committed:
            place = None
        if isinstance(place, NamedSharding):
            if dict(place.mesh.shape) != dict(mesh.shape) or not _same_devices(place.mesh, mesh):
                raise ValueError(f"leaf {_path(params, i)}: expected a parameter on {mesh}, got one on {place.mesh}")
            specs.append(place.spec)
        elif isinstance(place, PartitionSpec):
            specs.append(place)
        elif place is None or (isinstance(place, SingleDeviceSharding) and mesh.size == 1):
            specs.append(PartitionSpec())
        else:
            raise ValueError(
                f"leaf {_path(params, i)}: expected a parameter on {mesh}, got one with {place}; put the parameters there "
                "first: jax.device_put(params, NamedSharding(mesh, PartitionSpec()))"
            )
    return specs[0] if len(set(specs)) == 1 else tuple(specs)


def _path(tree: Any, index: int) -> str:
    paths = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: isinstance(x, (NamedSharding, PartitionSpec)))[
        0
    ]
    return trees.path_name(paths[index][0])


def _same_devices(one: Any, other: Any) -> bool:
    if isinstance(one, AbstractMesh) or isinstance(other, AbstractMesh):
        return True
    return one.device_ids.tolist() == other.device_ids.tolist()
