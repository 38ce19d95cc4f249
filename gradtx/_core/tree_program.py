"""The program of a treewise stage: all leaves at once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes
from gradtx._core.order import label
from gradtx._core.program import Numbers, check_slots
from gradtx._core.signal import Signal
from gradtx._core.stages import Leaves, Treewise
from gradtx._core.storage import CodecError, PlacedUnit
from gradtx._core.store import Store
from gradtx._core.trees import leaf_paths


@dataclasses.dataclass(frozen=True)
class TreeKind:
    """The static half of a treewise stage's program.

    Attributes:
        stage: the stage without its numbers.
        dtypes: for each leaf the dtypes of the arithmetic and of the update that leaves the program.
        last: whether it leaves the chain as well.
        indices: which leaves of the tree.
        treedef: the structure of the tree.
        keep: whether later stages need more of the signals than their updates.
        static: the keywords that are functions or strings.
        units: for each leaf the codecs that keep its slots.
    """

    stage: Treewise
    dtypes: tuple[tuple[np.dtype, np.dtype], ...]
    last: bool
    indices: tuple[int, ...]
    treedef: Any
    keep: bool
    static: tuple[tuple[str, Any], ...]
    units: tuple[tuple[PlacedUnit, ...], ...]


@functools.partial(jax.jit, static_argnums=0)
def tree_program(
    kind: TreeKind,
    scalars: Numbers,
    signals: list[Signal],
    params: list[jax.Array] | None,
    slots: list[dict[str, jax.Array]],
    memory: dict[str, jax.Array],
    keywords: dict[str, Any],
    count: jax.Array,
) -> tuple[list[Any], list[dict[str, jax.Array]], dict[str, jax.Array]]:
    """All leaves through a treewise stage."""
    stage = kind.stage
    computes = [compute for compute, _ in kind.dtypes]
    own: list[Any] = [None] * len(signals)
    if params is not None:
        own = [dtypes.cast(params[i], c) for i, c in zip(kind.indices, computes, strict=True)]
    given = [
        signal.replace(update=dtypes.cast(signal.update, c), param=p, product=signal.product)
        for signal, c, p in zip(signals, computes, own, strict=True)
    ]
    numbers = scalars.read(0, dtypes.scalar_dtype())
    stores = []
    for units, group, c, signal, i in zip(kind.units, slots, computes, signals, kind.indices, strict=True):
        numbers_of_leaf = [scalars.read(0, dtypes.real_dtype(c))] if units else []
        with _at(kind, i):
            place = {"count": count, "leaf": jnp.int32(i)}
            stores.append(Store(units, (group,), numbers_of_leaf, c, signal.update.shape, place))
    before = [store.before(0) for store in stores]
    leaves = Leaves(given, before, memory, kind.indices, kind.treedef, params)
    vars(numbers).update(keywords, **dict(kind.static))
    has_complex = any(jnp.issubdtype(c, jnp.complexfloating) for c in computes)
    with jax.numpy_dtype_promotion("standard") if has_complex else contextlib.nullcontext():
        with jax.named_scope(type(stage).__name__):
            new = stage.update_leaves(numbers, leaves)
    got, expected = [jnp.shape(s.update) for s in new.signals], [s.update.shape for s in signals]
    if got != expected:
        raise ValueError(f"{label(stage)}.update_leaves: expected updates of shapes {expected}, got {got}")
    for store, old, after, i in zip(stores, before, new.slots, kind.indices, strict=True):
        check_slots(stage, after, old)
        with _at(kind, i):
            store.put(0, after)
    check_slots(stage, new.memory, memory)
    out: list[Any] = []
    for signal, (_, dtype) in zip(new.signals, kind.dtypes, strict=True):
        if kind.last:
            out.append(dtypes.cast(signal.update, dtype))
        else:
            out.append(signal.replace(param=None, product=None) if kind.keep else Signal(signal.update))
    stored = [store.stored()[0] for store in stores]
    return out, stored, {name: dtypes.cast(new.memory[name], x.dtype) for name, x in memory.items()}


@contextlib.contextmanager
def _at(kind: TreeKind, leaf: int) -> Iterator[None]:
    """Name the leaf at which a codec fails."""
    try:
        yield
    except CodecError as error:
        tree = jax.tree.unflatten(kind.treedef, list(range(kind.treedef.num_leaves)))
        raise ValueError(f"leaf {leaf_paths(tree)[leaf]}: {error}") from error
