"""Changing a running optimizer's state: its slots, the shapes of its parameters, the chain itself."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradtx._core import addresses
from gradtx._core.hyperparameters import Number
from gradtx._core.schedule import Schedule
from gradtx._core.slots import State
from gradtx._core.spec import fields_of, kind_of
from gradtx._core.trees import path_name
from gradtx._groups import matches
from gradtx._inspect import access, walk
from gradtx._inspect.outline import outline
from gradtx.schedules import shifted

Fill = Literal["fresh", "mean"] | Callable[[jax.Array, jax.Array], jax.Array]


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
    return _mapped(lambda array, key, slot, leaf: fn(array), tx, state, name, path, "map_slots")


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
    if path is not None:
        return map_slots(lambda old: _fitted(value, old, str(path)), tx, state, name, path)
    given = access.by_path(value)

    def one(old: jax.Array, key: walk.Way, slot: str, leaf: str) -> jax.Array:
        if leaf not in given:
            raise ValueError(f"set_slot: leaf {leaf}: expected a value for it; there are {', '.join(given)}")
        return _fitted(given[leaf], old, leaf)

    return _mapped(one, tx, state, name, "**", "set_slot")


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

    return _mapped(one, tx, state, name, path, "reset_slots")


def carry_state(old_tx: Any, state: Any, tx: Any, params: Any, fill: Fill = "fresh") -> Any:
    """The state of another chain, or for parameters of other shapes, with what the old one had learned.

    A stage that both chains have keeps its slots, whatever has been put around or between them, also if one of them stores
    it in another way. A leaf keeps its arrays by its path; where its shape changed, the part that both shapes have (old rows of
    a vocabulary that was extended); new leaves and new stages start fresh. The step count is the old one.

    Args:
        old_tx: the transformation that made the state.
        state: its state.
        tx: the transformation that goes on; the same one if only the parameters changed.
        params: the parameters that it goes on with.
        fill: what the new part of an array starts as: `"fresh"`: as in a new state; `"mean"`: the mean over the old
            array, so that the second moment of new rows is no smaller than that of the others; or a function
            `(fresh, old) -> array` of the fresh one's shape.

    Returns:
        A state as `tx.init(params)` makes it.

    Raises:
        ValueError: the state is not one of `old_tx`, or two arrays have different numbers of axes.

    Example:
        >>> import gradtx, jax.numpy as jnp
        >>> tx = gradtx.adam(1e-3)
        >>> params = {"table": jnp.ones((2, 3))}
        >>> _, state = tx.update(params, tx.init(params), params)
        >>> more = {"table": jnp.ones((3, 3))}
        >>> state = gradtx.carry_state(tx, state, tx, more)
        >>> print(gradtx.get_slot(tx, state, "mu")["table"][:, 0])
        [1. 1. 0.]
    """
    state = walk.find(old_tx, state, "carry_state")
    fresh = tx.init(params)
    before = access.holders(old_tx, state)
    partner = _partners(old_tx, before, tx, access.holders(tx, fresh))

    def edit(holder: access.Holder) -> Any:
        if holder.key not in partner:
            return holder.kept
        old = partner[holder.key]
        if not isinstance(holder.kept, dict) or not isinstance(old, dict):
            fitting: bool = jax.tree.structure(old) == jax.tree.structure(holder.kept)  # type: ignore[operator]
            return _carried(holder.kept, old, fill) if fitting else holder.kept
        return {n: _carried(new, old[n], fill) if n in old else new for n, new in holder.kept.items()}

    carried = access.edited(tx, fresh, edit)
    return _with_counts(tx, carried, old_tx, state)


def _carried(new: Any, old: Any, fill: Fill) -> Any:
    """A slot with the arrays that the old one has for the same leaves."""
    there = access.by_path(old)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(new)
    return jax.tree.unflatten(
        treedef, [_overlapped(x, there[name], fill, name) if (name := path_name(p)) in there else x for p, x in leaves]
    )


def _overlapped(new: jax.Array, old: jax.Array, fill: Fill, name: str) -> jax.Array:
    if new.shape == old.shape:
        return _placed(jnp.copy(jnp.asarray(old)).astype(new.dtype), new)
    if new.ndim != old.ndim:
        raise ValueError(
            f"carry_state: leaf {name}: expected {new.ndim} axes, as its new shape {new.shape} has, got {old.shape}"
        )
    filled = new
    if fill == "mean":
        filled = jnp.full_like(new, jnp.mean(old).astype(new.dtype))
    elif callable(fill):
        filled = _fitted(fill(new, old), new, name)
    both = tuple(slice(0, min(a, b)) for a, b in zip(new.shape, old.shape, strict=True))
    return _placed(filled.at[both].set(old[both].astype(new.dtype)), new)


def _partners(old_tx: Any, before: list[access.Holder], tx: Any, after: list[access.Holder]) -> dict[walk.Way, Any]:
    """For holders of the new chain what the same one of the old chain keeps."""
    kept = {h.key: h.kept for h in before}
    lines = [[line for line in outline(t) if line.kind in ("stage", "wrapper")] for t in (old_tx, tx)]
    labels = [[f"{line.kind} {line.label}" for line in some] for some in lines]
    partner = {}
    for a, b, size in difflib.SequenceMatcher(None, labels[0], labels[1], autojunk=False).get_matching_blocks():
        for x, y in zip(lines[0][a : a + size], lines[1][b : b + size], strict=True):
            if x.way in kept:
                partner[y.way] = kept[x.way]
    return {h.key: partner[h.key] for h in after if h.key in partner}


def _with_counts(tx: Any, state: Any, old_tx: Any, old: Any) -> Any:
    """The state with the step counts of the old one: of the innermost chain, which has counted steps."""
    counts = [part.state.count for part in walk.parts(old_tx, old) if isinstance(part.state, State)]
    ours = [part.state for part in walk.parts(tx, state) if isinstance(part.state, State)]
    by_rank = counts if len(counts) == len(ours) else [counts[-1]] * len(ours)
    given = iter(by_rank)

    def visit(x: Any) -> Any:
        if not isinstance(x, State):
            return x
        count = _placed(jnp.copy(jnp.asarray(next(given))), x.count)
        return State(count, jax.tree.map(visit, x.stages, is_leaf=lambda y: isinstance(y, State)))

    return jax.tree.map(visit, state, is_leaf=lambda y: isinstance(y, State))


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


def _mapped(fn: Callable[..., Any], tx: Any, state: Any, name: str | None, path: Any, caller: str) -> Any:
    found = access.holders(tx, walk.find(tx, state, caller))
    chosen = set(access.slots_called(found, name, tx, caller)) if name is not None else None
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
                    array = _fitted(fn(array, holder.key, slot, leaf), array, leaf)
                arrays.append(array)
            new[slot] = jax.tree.unflatten(treedef, arrays)
        return new

    state = access.edited(tx, walk.find(tx, state, caller), edit)
    if not touched:
        raise ValueError(f"{caller}: no leaf with such a slot matches {path!r}")
    return state


def _fitted(value: Any, old: jax.Array, leaf: str) -> jax.Array:
    new = jnp.asarray(value)
    if new.shape not in ((), old.shape):
        raise ValueError(f"leaf {leaf}: expected an array of shape {old.shape} or a number, got {new.shape}")
    return _placed(jnp.broadcast_to(new.astype(old.dtype), old.shape), old)


def _placed(new: jax.Array, like: Any) -> jax.Array:
    """An array where the one it replaces was."""
    if isinstance(like, jax.Array) and not isinstance(like, jax.core.Tracer) and like.committed:
        return jax.device_put(new, like.sharding)
    return new
