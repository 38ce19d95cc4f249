"""The slots of a state as named float32 trees, however they are stored, and the state with other ones."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradtx._core.plain import coded_state, plain_state
from gradtx._core.slots import State
from gradtx._core.stages import Opaque, Stage, Wrapped
from gradtx._core.trees import path_name
from gradtx._inspect import walk
from gradtx._sharding import in_memory


class Holder(NamedTuple):
    """A stage or wrapper that keeps something.

    Attributes:
        key: the way down to it, unique.
        label: what addresses call it: its name, the pattern of its group, or its function.
        kept: `{slot: tree like the parameters, or an array}`, decoded; the state itself of an Optax transformation.
    """

    key: walk.Way
    label: str
    kept: Any


Edit = Callable[[Holder], Any]


def edited(tx: Any, state: Any, edit: Edit, way: walk.Way = ()) -> Any:
    """The state in which every holder keeps what `edit` returns for it, stored as it was before.

    This and `holders` are the only places that know how a state is laid out and encoded.
    """
    if getattr(tx, "transparent", False):
        near = jax.tree.map(lambda x: in_memory(x, jax.memory.Space.Device), state)
        return jax.tree.map(_put_back, edited(tx.tx, near, edit, (*way, ("transforms", 0))), state)
    if not isinstance(tx, Stage):
        own = {name: getattr(state, name) for name in state._fields if name not in tx.held}
        new = edit(Holder(way, getattr(tx, "built_by", type(tx).__name__), own))
        inside = {
            field: edited(part, getattr(state, field), edit, (*way, ("transforms", i)))
            for i, (part, field) in enumerate(zip(tx.transforms, tx.held, strict=True))
        }
        return state._replace(**new, **inside)
    plain = plain_state(tx, state)
    entries = []
    for position, entry in zip(walk.positions(tx), plain.stages, strict=True):
        if position.way is None or position.stage is None:
            entries.append(entry)
            continue
        here = (*way, *position.way)
        if isinstance(position.stage, Wrapped):
            entries.append(edited(position.stage.transformation, entry, edit, (*here, ("transforms", 0))))
        elif isinstance(entry, dict) or isinstance(position.stage, Opaque):
            entries.append(edit(Holder(here, _label(position), entry)))
        else:
            entries.append(entry)
    new = State(plain.count, tuple(entries))
    return new if plain is state else coded_state(tx, new, state)


def _put_back(new: Any, old: Any) -> Any:
    """An edited array where the old one was: on a mesh, in the host's memory."""
    if isinstance(new, jax.core.Tracer) or isinstance(old, jax.core.Tracer):
        return in_memory(new, jax.typeof(old).memory_space)
    same = isinstance(new, jax.Array) and new.shape == old.shape and new.sharding != old.sharding
    return jax.device_put(new, old.sharding) if same and old.committed else new


def _label(position: walk.Position) -> str:
    assert position.stage is not None
    name = position.stage.__dict__.get("_name")
    group = position.group if isinstance(position.group, str) else None
    return name or group or type(position.stage).__name__


def holders(tx: Any, state: Any) -> list[Holder]:
    """What every stage and wrapper keeps, in order."""
    found: list[Holder] = []

    def note(holder: Holder) -> Any:
        found.append(holder)
        return holder.kept

    edited(tx, state, note)
    return found


def slot_addresses(found: list[Holder]) -> dict[str, tuple[walk.Way, str]]:
    """The shortest unique address of every slot: its name, or `label.name`, or `label[i].name`."""
    pairs = [(h, name) for h in found if isinstance(h.kept, dict) for name in h.kept]
    names = Counter(name for _, name in pairs)
    labels = Counter((h.label, name) for h, name in pairs)
    seen: Counter[tuple[str, str]] = Counter()
    table = {}
    for holder, name in pairs:
        key = (holder.label, name)
        if names[name] == 1:
            address = name
        elif labels[key] == 1:
            address = f"{holder.label}.{name}"
        else:
            address = f"{holder.label}[{seen[key]}].{name}"
        seen[key] += 1
        table[address] = (holder.key, name)
    return table


def slots_called(found: list[Holder], name: str, tx: Any, caller: str) -> list[tuple[walk.Way, str]]:
    """The slots that a name or an address means: all those of that name.

    Raises:
        KeyError: there is none.
    """
    table = slot_addresses(found)
    if name in table:
        return [table[name]]
    labels = {holder.key: holder.label for holder in found}
    matching = [(key, slot) for key, slot in table.values() if name in (slot, f"{labels[key]}.{slot}")]
    if not matching:
        near = difflib.get_close_matches(name, list(table), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"{caller}: no slot {name!r} in the state of {tx!r}; it has {', '.join(table) or 'none'}{hint}")
    return matching


def is_empty(x: Any) -> bool:
    """Whether a tree has nothing for a leaf."""
    return isinstance(x, optax.MaskedNode)


def by_path(tree: Any) -> dict[str, Any]:
    """The arrays of a slot by the paths of their leaves; an array kept once has the path `<root>`."""
    return {path_name(path): x for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}


def fitted(value: Any, old: jax.Array, leaf: str) -> jax.Array:
    """A value, or one number, in the shape, dtype and place of an array."""
    new = jnp.asarray(value)
    if new.shape not in ((), old.shape):
        raise ValueError(f"leaf {leaf}: expected an array of shape {old.shape} or a number, got {new.shape}")
    return placed(jnp.broadcast_to(new.astype(old.dtype), old.shape), old)


def placed(new: jax.Array, like: Any) -> jax.Array:
    """An array where the one it replaces was."""
    if isinstance(like, jax.Array) and not isinstance(like, jax.core.Tracer) and like.committed:
        return jax.device_put(new, like.sharding)
    return new
