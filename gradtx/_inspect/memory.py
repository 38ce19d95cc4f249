"""What a state will take, before the run: by slot and by group, for every preset of storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gradtx._core import trees
from gradtx._core.chain import chain
from gradtx._core.stages import Opaque, Stage, is_foreign
from gradtx._core.transform import Transform
from gradtx._groups import show_pattern
from gradtx._inspect.walk import positions
from gradtx._repadding import unpadded
from gradtx._sharding import abstract_state
from gradtx._storing import PRESETS, with_storage, without_storage


@dataclasses.dataclass(frozen=True)
class Kept:
    """One row of a memory plan.

    Attributes:
        group: the pattern of the group of parameters, or None.
        slot: the name of the slot, or of the codec's part that stands for it.
        dtype: what its arrays are made of; several where small leaves are kept otherwise.
        leaves: how many parameters have it.
        bytes: of all its arrays together.
        device_bytes: of these the bytes on one device (the same without a mesh).
    """

    group: str | None
    slot: str
    dtype: str
    leaves: int
    bytes: int
    device_bytes: int


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """The bytes of a state. Build it with `memory_plan`; printed, it is a table.

    Attributes:
        parameters: the number of parameters (elements).
        parameter_bytes: what they take themselves.
        rows: the state by group and slot.
        presets: for each preset of `with_storage` the bytes of the state that it would give.
        whole: where some of the state is split over devices, the arrays that are not: `(path, shape, bytes)`, the largest
            first. Every device keeps and computes them.
        padded: where `shard_state(pad=True)` pads, the arrays with zeros at their end: `(path, shape without and with, bytes of
            zeros)`, the largest first. The zeros are among the other bytes.
    """

    parameters: int
    parameter_bytes: int
    rows: tuple[Kept, ...]
    presets: dict[str, int]
    whole: tuple[tuple[str, str, int], ...] = ()
    padded: tuple[tuple[str, str, int], ...] = ()

    @property
    def bytes(self) -> int:
        """Of the whole state."""
        return sum(row.bytes for row in self.rows)

    @property
    def device_bytes(self) -> int:
        """Of the state on one device."""
        return sum(row.device_bytes for row in self.rows)

    @property
    def per_parameter(self) -> float:
        """Bytes of state for each parameter."""
        return self.bytes / max(self.parameters, 1)

    def __str__(self) -> str:
        several = any(row.device_bytes != row.bytes for row in self.rows)
        head = ["group", "slot", "kept as", "leaves", "bytes", "per parameter", *(["on a device"] if several else [])]
        lines = [head]
        for row in self.rows:
            lines.append(
                [row.group or "", row.slot, row.dtype, f"{row.leaves:,}", f"{row.bytes:,}", self._per(row.bytes)]
                + ([f"{row.device_bytes:,}"] if several else [])
            )
        lines.append(
            ["", "state", "", "", f"{self.bytes:,}", self._per(self.bytes)]
            + ([f"{self.device_bytes:,}"] if several else [])
        )
        own = f"{self.parameter_bytes:,}"
        lines.append(["", "parameters", "", "", own, self._per(self.parameter_bytes), *([""] if several else [])])
        for name, size in self.presets.items():
            lines.append(["", f"state, {name!r}", "", "", f"{size:,}", self._per(size), *([""] if several else [])])
        if not any(row.group for row in self.rows):
            lines = [line[1:] for line in lines]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = sum(not any(ch.isdigit() for ch in line) for line in lines[1][:3])
        table = [
            "  ".join(
                x.ljust(w) if i < texts else x.rjust(w) for i, (x, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        whole, zeros = _listed("whole on every device", self.whole), _listed("zeros that pad", self.padded)
        return "\n".join([*table, *whole, *zeros])

    def _per(self, size: int) -> str:
        return f"{size / max(self.parameters, 1):.3f}"


def memory_plan(tx: Any, params: Any) -> MemoryPlan:
    """The bytes that the state of an optimizer will take, without allocating them.

    Args:
        tx: a gradtx transformation, or Optax's.
        params: a tree of arrays or of `jax.ShapeDtypeStruct`s; where these have shardings, the plan also has the bytes on one
            device.

    Returns:
        A plan: equal to what `tx.init(params)` allocates, byte for byte.

    Raises:
        TypeError: as `tx.init` raises it, for a leaf that a stage or codec cannot keep.

    Example:
        >>> import gradtx, jax, jax.numpy as jnp
        >>> shapes = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.float32), "b": jax.ShapeDtypeStruct((4096,), jnp.float32)}
        >>> gradtx.memory_plan(gradtx.adamw(1e-3), shapes).per_parameter
        8.000000238360464
    """
    if is_foreign(tx):
        tx = chain(tx)
    if not isinstance(tx, Transform):
        raise TypeError(f"memory_plan: expected a gradtx or Optax transformation, got {tx!r}")
    leaves, _ = trees.flatten(params, "the parameter")
    state = abstract_state(tx, params)
    found: dict[tuple[str | None, str], list[Any]] = {}
    for group, slot, array in _arrays(tx, state):
        found.setdefault((group, slot), []).append(array)
    rows = tuple(
        Kept(
            group,
            slot,
            ", ".join(sorted({str(x.dtype) for x in arrays})),
            len(arrays),
            sum(map(_bytes, arrays)),
            sum(map(_device_bytes, arrays)),
        )
        for (group, slot), arrays in found.items()
    )
    bare = without_storage(tx)
    presets = {name: _total(with_storage(bare, name), params) for name in PRESETS}
    size, own = sum(int(x.size) for x in leaves), sum(map(_bytes, leaves))
    return MemoryPlan(size, own, rows, presets, _whole(state), _padded(tx, params, state))


def _listed(what: str, arrays: tuple[tuple[str, str, int], ...], shown: int = 3) -> list[str]:
    """What the arrays take together, and the largest, in a line."""
    if not arrays:
        return []
    largest = ", ".join(f"{path} {shape}" for path, shape, _ in arrays[:shown])
    more = f" and {len(arrays) - shown} smaller ones" if len(arrays) > shown else ""
    return [f"{what}: {sum(size for _, _, size in arrays):,} bytes: {largest}{more}"]


def _padded(tx: Any, params: Any, state: Any) -> tuple[tuple[str, str, int], ...]:
    bare = unpadded(tx)
    if bare is tx:
        return ()
    own = jax.tree.leaves(abstract_state(bare, params))
    flat = zip(jax.tree_util.tree_flatten_with_path(state)[0], own, strict=True)
    found = [
        (trees.path_name(path), f"{x.dtype}{list(mine.shape)} to {list(x.shape)}", _bytes(x) - _bytes(mine))
        for (path, x), mine in flat
        if x.shape != mine.shape
    ]
    return tuple(sorted(found, key=lambda entry: -entry[2]))


def _whole(state: Any) -> tuple[tuple[str, str, int], ...]:
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    if all(_device_bytes(x) == _bytes(x) for _, x in flat):
        return ()
    found = [
        (trees.path_name(p), f"{x.dtype}{list(x.shape)}", _bytes(x)) for p, x in flat if _device_bytes(x) == _bytes(x)
    ]
    return tuple(sorted((entry for entry in found if entry[2]), key=lambda entry: -entry[2]))


def _total(tx: Any, params: Any) -> int:
    return sum(map(_bytes, jax.tree.leaves(abstract_state(tx, params))))


def _bytes(x: Any) -> int:
    return int(np.prod(x.shape)) * x.dtype.itemsize


def _device_bytes(x: Any) -> int:
    sharding = getattr(x, "sharding", None)
    shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
    return int(np.prod(shape)) * x.dtype.itemsize


def _arrays(tx: Any, state: Any, group: str | None = None) -> Iterator[tuple[str | None, str, Any]]:
    """Every array of a state, with the group and the slot that it belongs to."""
    if getattr(tx, "transparent", False):
        yield from _arrays(tx.tx, state, group)
        return
    if not isinstance(tx, Stage):
        held = dict(zip(getattr(tx, "held", ()), getattr(tx, "transforms", ()), strict=True))
        for field in state._fields if held else ():
            if field in held:
                yield from _arrays(held[field], getattr(state, field), group)
            else:
                yield from ((group, field, array) for array in jax.tree.leaves(getattr(state, field)))
        if not held:
            yield from ((group, _field(path), array) for path, array in jax.tree_util.tree_flatten_with_path(state)[0])
        return
    yield group, "count", state.count
    for position, entry in zip(positions(tx), state.stages, strict=True):
        inside = group if position.group is None else show_pattern(position.group)
        if isinstance(position.stage, Opaque):
            yield from _arrays(position.stage.transformation, entry, inside)
        elif isinstance(entry, dict):
            for name, kept in entry.items():
                yield from ((inside, name, array) for array in jax.tree.leaves(kept))


def _field(path: tuple[Any, ...]) -> str:
    """What a foreign state calls an array: the name of the field it is in."""
    names = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
    return names[-1] if names else trees.path_name(path)
