"""Changing a running optimizer's state: its slots, and where its schedules begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from gradtx._core import addresses
from gradtx._core.hyperparameters import Number
from gradtx._core.schedule import Schedule
from gradtx._core.slots import State
from gradtx._core.spec import fields_of, kind_of
from gradtx._core.trees import path_name
from gradtx._groups import matches
from gradtx._inspect import access, walk
from gradtx.schedules import shifted


def slots(tx: Any, state: Any) -> dict[str, Any]:
    """All slots of a state, decoded however they are stored.

    Args:
        tx: a gradtx transformation.
        state: its state, or anything with it inside.

    Returns:
        `{address: tree like the parameters}` in float32 (or what a slot is declared as), `optax.MaskedNode()` where a leaf
        has no such slot; what is kept once is an array. An address is the slot's name where that is unique.

    Example:
        >>> import gradtx
        >>> tx = gradtx.adam(1e-3, storage="half")
        >>> list(gradtx.slots(tx, tx.init({"w": jax.numpy.ones((64, 64))})))
        ['mu', 'nu']
    """
    found = access.holders(tx, walk.find(tx, state, "slots"))
    kept = {h.key: h.kept for h in found}
    return {address: kept[key][name] for address, (key, name) in access.slot_addresses(found).items()}


def get_slot(tx: Any, state: Any, name: str) -> Any:
    """One slot of a state, decoded however it is stored.

    Args:
        tx: a gradtx transformation.
        state: its state, or anything with it inside.
        name: a slot's name (`"mu"`), or its address where several stages have one: `"**/bias.mu"`, `"ema_first_moment[1].mu"`.

    Returns:
        A tree like the parameters (`optax.MaskedNode()` where a leaf has no such slot), or an array kept once.

    Raises:
        KeyError: there is no such slot; the message lists those there are.
        ValueError: several are called so.
    """
    state = walk.find(tx, state, "get_slot")
    found = access.holders(tx, state)
    places = access.slots_called(found, name, tx, "get_slot")
    if len(places) > 1:
        candidates = [a for a, place in access.slot_addresses(found).items() if place in places]
        raise ValueError(f"get_slot: {name!r} occurs {len(places)} times; say which: {', '.join(candidates)}")
    key, slot = places[0]
    return next(h.kept[slot] for h in found if h.key == key)


def map_slots(fn: Callable[..., Any], tx: Any, state: Any, name: str | None = None, path: Any = "**") -> Any:
    """The state in which a function has been applied to slots.

    Args:
        fn: `array -> array` of the same shape; the array is float32, however it is stored.
        tx: a gradtx transformation.
        state: its state.
        name: which slots: a name (all stages that have it), or an address; None: all that are like the parameters.
        path: which leaves: a glob, a regular expression or a predicate `(path, leaf) -> bool`, as in `by_path`.

    Returns:
        A state of the same structure, shapes, dtypes and shardings. What no pattern chooses stays as it is.

    Raises:
        KeyError: there is no such slot.
        ValueError: no leaf matches, or `fn` returns another shape.

    Example:
        >>> import gradtx, jax.numpy as jnp
        >>> tx = gradtx.adam(1e-3)
        >>> state = tx.init({"w": jnp.ones(2), "b": jnp.ones(1)})
        >>> state = gradtx.map_slots(lambda nu: nu + 4.0, tx, state, "nu", "w")
        >>> print(gradtx.get_slot(tx, state, "nu"))
        {'b': Array([0.], dtype=float32), 'w': Array([4., 4.], dtype=float32)}
    """
    chosen = _called(tx, state, name, "map_slots")
    return _mapped(lambda array, key, slot, leaf: fn(array), tx, state, chosen, path, "map_slots")


def set_slot(tx: Any, state: Any, name: str, value: Any, path: Any = None) -> Any:
    """The state in which a slot has other values.

    Args:
        tx: a gradtx transformation.
        state: its state.
        name: a slot's name or address.
        value: a tree like the parameters; or, with `path`, an array or number for every leaf that it chooses.
        path: which leaves; None: `value` has all of them.

    Raises:
        KeyError: there is no such slot.
        ValueError: a shape does not fit, or no leaf matches.
    """
    return _set(tx, state, {name: value}, path, "set_slot")


def set_slots(tx: Any, state: Any, values: Mapping[str, Any], path: Any = None) -> Any:
    """The state in which several slots have other values.

    All change at once. Where a codec keeps two slots in one word (`storage="quarter"` keeps `mu` as a ratio to the root of
    `nu`), one after the other would encode the first beside an old second.

    Args:
        tx: a gradtx transformation.
        state: its state.
        values: for each slot, by its name or address, what `set_slot` takes.
        path: which leaves; None: the values have all of them.

    Raises:
        KeyError: there is no such slot.
        ValueError: a shape does not fit, no leaf matches, or two names mean the same slot.

    Example:
        >>> import gradtx, jax.numpy as jnp
        >>> tx = gradtx.adam(1e-3, storage="quarter")
        >>> state = tx.init({"w": jnp.ones((64, 64))})
        >>> state = gradtx.set_slots(tx, state, {"mu": 0.0, "nu": 4.0}, "w")
        >>> print(gradtx.get_slot(tx, state, "nu")["w"][0, 0])
        4.0
    """
    return _set(tx, state, values, path, "set_slots")


def _set(tx: Any, state: Any, values: Mapping[str, Any], path: Any, caller: str) -> Any:
    found = access.holders(tx, walk.find(tx, state, caller))
    given: dict[tuple[walk.Way, str], tuple[str, Any]] = {}
    for name, value in values.items():
        for place in access.slots_called(found, name, tx, caller):
            if place in given:
                raise ValueError(f"{caller}: {given[place][0]!r} and {name!r} mean the same slot; expected one of them")
            given[place] = (name, value if path is not None else access.by_path(value))

    def one(old: jax.Array, key: walk.Way, slot: str, leaf: str) -> jax.Array:
        name, value = given[key, slot]
        if path is not None:
            return access.fitted(value, old, leaf)
        if leaf not in value:
            raise ValueError(f"{caller}: leaf {leaf}: expected a value for it; {name} has {', '.join(value)}")
        return access.fitted(value[leaf], old, leaf)

    return _mapped(one, tx, state, set(given), "**" if path is None else path, caller)


def reset_slots(tx: Any, state: Any, params: Any, path: Any = "**", name: str | None = None) -> Any:
    r"""The state in which some leaves have forgotten their past: their slots are as `init` makes them.

    The step count is one for all leaves and stays, and with it the weight of running averages: to a leaf that is reset, the
    steps before look like steps with zero gradients. Adam's next steps of that leaf are up to $(1-b_1) / \sqrt{1-b_2}$ as
    long as otherwise (3.2 by default), until the second moment has grown.

    Args:
        tx: a gradtx transformation.
        state: its state.
        params: the parameters.
        path: which leaves.
        name: which slots; None: all.
    """
    fresh = {h.key: h.kept for h in access.holders(tx, tx.init(params))}

    def one(old: jax.Array, key: walk.Way, slot: str, leaf: str) -> jax.Array:
        return access.by_path(fresh[key][slot])[leaf]

    return _mapped(one, tx, state, _called(tx, state, name, "reset_slots"), path, "reset_slots")


def warm_restart(tx: Any, state: Any) -> Any:
    """The transformation whose schedules begin anew at the step that the state has reached; its state goes on as it is.

    The moments stay, and the learning rate follows its schedule from the start: a warm restart, as in SGDR, at a step that
    was not planned. To forget the moments as well, use `tx.init(params)`.

    Args:
        tx: a gradtx transformation.
        state: its state, and not a traced one: the step is static in the new schedules.

    Returns:
        A transformation for the same state. Decays that are schedules go on.
    """
    state = walk.find(tx, state, "warm_restart")
    return _restarted(tx, {part.way: part.state for part in walk.parts(tx, state)})


def _restarted(tx: Any, states: dict[walk.Way, Any]) -> Any:
    for place in addresses.places(tx):
        if place.in_schedule or not isinstance(place.value, Schedule):
            continue
        owner = tx
        for name, index in place.way[:-1]:
            owner = getattr(owner, name) if index is None else getattr(owner, name)[index]
        kind = next(kind_of(f) for f in fields_of(owner) if f.name == place.field)
        if not isinstance(kind, Number):
            continue  # a decay: the weight of its average goes on with the count
        inside = next(states[place.way[:n]] for n in range(len(place.way), -1, -1) if place.way[:n] in states)
        count = int(inside.count if isinstance(inside, State) else _first_count(inside))
        schedule = place.value.schedule if isinstance(place.value, shifted) else place.value
        tx = addresses.put_leaf(tx, place.way, shifted(schedule, count))
    return tx


def _first_count(state: Any) -> Any:
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, State))
    return next(x.count for x in leaves if isinstance(x, State))


Places = set[tuple[walk.Way, str]]


def _called(tx: Any, state: Any, name: str | None, caller: str) -> Places | None:
    """The slots of a name; None: all."""
    if name is None:
        return None
    return set(access.slots_called(access.holders(tx, walk.find(tx, state, caller)), name, tx, caller))


def _mapped(fn: Callable[..., Any], tx: Any, state: Any, chosen: Places | None, path: Any, caller: str) -> Any:
    touched: list[str] = []

    def edit(holder: access.Holder) -> Any:
        if not isinstance(holder.kept, dict):
            return holder.kept
        new = {}
        for slot, tree in holder.kept.items():
            leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
            once = len(leaves) == 1 and not leaves[0][0]
            if (chosen is not None and (holder.key, slot) not in chosen) or (chosen is None and once):
                new[slot] = tree
                continue
            arrays = []
            for p, array in leaves:
                leaf = path_name(p)
                if once or matches(path, leaf, array):
                    touched.append(leaf)
                    array = access.fitted(fn(array, holder.key, slot, leaf), array, leaf)
                arrays.append(array)
            new[slot] = jax.tree.unflatten(treedef, arrays)
        return new

    state = access.edited(tx, walk.find(tx, state, caller), edit)
    if not touched:
        raise ValueError(f"{caller}: no leaf with such a slot matches {path!r}")
    return state
