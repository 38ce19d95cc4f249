"""What stands out in a compiled step: memory and traffic that were probably not meant."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, NamedSharding

from gradtx._core import trees
from gradtx._core.slots import State
from gradtx._rehearsal.collectives import Collective
from gradtx._rehearsal.report import show_bytes
from gradtx._sharding import full_spec

LARGE = 1 << 20  # bytes; what is smaller surprises nobody

_NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64", "int32": "s32", "uint32": "u32"}


def gathered_again(arguments: Any, collectives: tuple[Collective, ...]) -> Iterator[str]:
    """Arrays gathered more often than there are arguments, but for optimizer state, that they could be."""
    states = {id(x) for x in _states(arguments)}
    on_the_way = Counter(dims for x in _states(arguments) for dims in _parts(x))
    known = Counter(shape for x in _large(arguments) if id(x) not in states for shape in _shapes(x))
    times: Counter[str] = Counter()
    scopes: dict[str, list[str]] = {}
    for c in collectives:
        if c.kind == "all-gather":
            for shape in c.shapes:
                times[shape] += c.times
                scopes.setdefault(shape, []).append(c.scope)
    for shape, n in times.items():
        if 0 < known[shape] < n - on_the_way[shape[shape.index("[") :]]:
            yield (
                f"{shape} is gathered {n} times a step, and {known[shape]} of the arguments have that shape: "
                f"{', '.join(sorted(set(scopes[shape])))}"
            )


def reduced_whole(arguments: Any, collectives: tuple[Collective, ...]) -> Iterator[str]:
    """All-reduces of arrays as large as an argument that the devices hold in parts."""
    split = {_name(x.shape, x.dtype) for x in _large(arguments) if _split(x) > 1}
    for c in collectives:
        whole = [shape for shape in c.shapes if shape in split]
        if c.kind == "all-reduce" and whole:
            yield (
                f"all-reduce of {', '.join(whole)} ({show_bytes(c.nbytes * c.times)}), though an argument of that shape is "
                "split over devices: a reduce-scatter would send half"
            )


def state_left_whole(arguments: Any, mesh: dict[str, int]) -> Iterator[str]:
    """Optimizer state that every device along a mesh axis keeps."""
    kept: Counter[str] = Counter()
    total = 0
    for x in _states(arguments):
        size = math.prod(x.shape) * x.dtype.itemsize
        total += size
        used = _axes_of(x)
        for axis, parts in mesh.items():
            if parts > 1 and axis not in used and size >= LARGE:
                kept[axis] += size // _split(x)
    for axis, size in kept.items():
        if size > LARGE:
            yield (
                f"each of the {mesh[axis]} devices along {axis!r} keeps the same {show_bytes(size)} of optimizer state: "
                f"shard_state(tx, mesh, axis={axis!r}) leaves {show_bytes(size / mesh[axis])}"
            )


def not_donated(results: int, donated: int, arguments: int) -> Iterator[str]:
    """Results beside arguments that they could have replaced."""
    if results - donated > max(LARGE, 0.1 * arguments):
        yield (
            f"{show_bytes(results - donated)} of results lie beside the arguments: donate parameters and state "
            "(jax.jit(step, donate_argnums=...))"
        )


def moved(arguments: list[Any], results: Any) -> Iterator[str]:
    """Results that have the shapes of an argument and other shardings: the next step would compile again."""
    outs = list(results) if isinstance(results, (tuple, list)) and not hasattr(results, "_fields") else [results]
    for out in outs:
        shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(out)]
        for argument in arguments:
            structure: Any = jax.tree.structure(argument)
            if structure != jax.tree.structure(out) or not shapes:
                continue
            leaves = jax.tree.leaves(argument)
            if [(x.shape, x.dtype) for x in leaves] != shapes:
                continue
            other = [
                (path, x.sharding, y.sharding)
                for path, x, y in zip(trees.leaf_paths(argument), leaves, jax.tree.leaves(out), strict=True)
                if getattr(x, "sharding", None) is not None and not _same_place(x.sharding, y.sharding, len(x.shape))
            ]
            if other:
                path, before, after = other[0]
                more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
                yield (
                    f"{path}{more} goes in as {_spec(before)} and comes out as {_spec(after)}: the next step compiles again, "
                    "with other memory and collectives"
                )
            break


def _same_place(before: Any, after: Any, ndim: int) -> bool:
    if isinstance(before, NamedSharding) and isinstance(before.mesh, AbstractMesh):  # of devices that know no memories
        before = NamedSharding(after.mesh, before.spec)
    return bool(before.is_equivalent_to(after, ndim))


def _spec(sharding: Any) -> str:
    return str(sharding.spec) if isinstance(sharding, NamedSharding) else str(sharding)


def _states(arguments: Any) -> list[Any]:
    """The arrays of the optimizer states in the arguments: gradtx's, and what lies in Optax's named tuples."""

    def is_state(x: Any) -> bool:
        return isinstance(x, State) or (
            isinstance(x, tuple) and hasattr(x, "_fields") and type(x).__name__.endswith("State")
        )

    found = [x for x in jax.tree.leaves(arguments, is_leaf=is_state) if is_state(x)]
    return [x for x in jax.tree.leaves(found) if not isinstance(x, optax.MaskedNode)]


def _large(arguments: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(arguments) if math.prod(x.shape) * x.dtype.itemsize >= LARGE]


def _axes_of(x: Any) -> set[str]:
    sharding = getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return set()
    entries = [e if isinstance(e, tuple) else (e,) for e in tuple(sharding.spec) if e is not None]
    return {axis for entry in entries for axis in entry}


def _split(x: Any) -> int:
    """In how many parts an array lies."""
    sharding = getattr(x, "sharding", None)
    part = math.prod(x.shape if sharding is None else sharding.shard_shape(tuple(x.shape)))
    return max(math.prod(x.shape) // max(part, 1), 1)


def _shapes(x: Any) -> set[str]:
    """The shapes that an argument may be gathered to: along all of the mesh's axes that split it, or some."""
    return {_name(x.shape, x.dtype)} | {_name(shape, x.dtype) for shape in _partial(x)}


def _parts(x: Any) -> set[str]:
    """The shapes that an array split like this one has on the way, where it is gathered along one axis after the other."""
    return {f"[{','.join(map(str, shape))}]" for shape in _partial(x) - {_local(x)}}


def _local(x: Any) -> tuple[int, ...]:
    return tuple(x.sharding.shard_shape(tuple(x.shape)))


def _partial(x: Any) -> set[tuple[int, ...]]:
    """The shapes of an array's parts, split along all of the mesh's axes that split it, or some."""
    sharding, found = getattr(x, "sharding", None), set()
    if isinstance(sharding, NamedSharding):
        names = [
            () if e is None else e if isinstance(e, tuple) else (e,) for e in full_spec(sharding.spec, len(x.shape))
        ]
        axes = sorted(_axes_of(x))
        for kept in (some for n in range(1, len(axes) + 1) for some in itertools.combinations(axes, n)):
            parts = [math.prod(sharding.mesh.shape[a] for a in here if a in kept) for here in names]
            found.add(tuple(n // k for n, k in zip(x.shape, parts, strict=True)))
    return found


def _name(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{_NAMES.get(str(dtype), str(dtype))}[{','.join(map(str, shape))}]"
