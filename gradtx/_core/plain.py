"""States as they would be without codecs, and back: for whoever reads, changes or moves a state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradtx._core import dtypes
from gradtx._core.plan import Plan, plan_for
from gradtx._core.slots import State
from gradtx._core.stages import Opaque
from gradtx._core.storage import Unit, decoded_values, encoded, nearest

Values = dict[tuple[int, str], list[Any]]


def plain_state(tx: Any, state: State, params: Any = None) -> State:
    """The state of a chain with every slot decoded: its arrays are float32 (or what their slot declares).

    Args:
        tx: the chain.
        state: its state.
        params: the parameters; needed only where no slot of a leaf has the parameter's shape.

    Returns:
        A state of the same form as that of the chain without `with_storage`, `optax.MaskedNode()` where a leaf has no
        such slot.

    Raises:
        ValueError: the state is not one of this chain, or the shape of a parameter cannot be told.
    """
    plan = plan_for(jax.tree.structure(tx))
    if not plan.units:
        return state
    _check(plan, state)
    flat, treedef = _flat(plan, state)
    values: Values = {}
    shapes = _shapes(plan, flat, params)
    for unit in plan.units:
        _decode(unit, state, flat, shapes, values)
    entries: list[Any] = []
    for i, (stage, entry) in enumerate(zip(plan.stages, state.stages, strict=True)):
        if isinstance(stage, Opaque) or not isinstance(entry, dict):
            entries.append(entry)
            continue
        new = {}
        for slot in stage.slots():
            if slot.role == "scalar":
                new[slot.name] = entry[slot.name]
                continue
            decoded = values.get((i, slot.name))
            arrays = flat[i, slot.name] if decoded is None else decoded
            new[slot.name] = jax.tree.unflatten(treedef, arrays)
        entries.append(new or ())
    return State(state.count, tuple(entries))


def coded_state(tx: Any, plain: State, like: State) -> State:
    """The inverse of `plain_state`, rounded to nearest.

    Args:
        tx: the chain.
        plain: decoded.
        like: a state of the chain, which says which leaves are kept how, and has the numbers of the codecs.
    """
    plan = plan_for(jax.tree.structure(tx))
    if not plan.units:
        return plain
    _check(plan, like)
    flat, treedef = _flat(plan, like)
    given = {
        (i, slot.name): treedef.flatten_up_to(plain.stages[i][slot.name])
        for i, stage in enumerate(plan.stages)
        if not isinstance(stage, Opaque)
        for slot in stage.slots()
        if slot.role != "scalar"
    }
    new = {key: list(given.get(key, arrays)) for key, arrays in flat.items()}
    for unit in plan.units:
        numbers = {key: like.stages[unit.home][part.name] for key, part in unit.memory}
        for leaf in _held(unit, flat):
            values = tuple(given[i, slot.name][leaf].astype(jnp.float32) for i, slot in unit.members)
            parts = encoded(unit.codec, [key for key, _ in unit.arrays], values, numbers, nearest(values[0].shape))
            for i, slot in unit.members:
                if (i, slot.name) in new:
                    new[i, slot.name][leaf] = optax.MaskedNode()
            for key, part in unit.arrays:
                new[unit.home, part.name][leaf] = parts[key]
    entries: list[Any] = []
    for i, (stage, entry, own) in enumerate(zip(plan.stages, like.stages, plain.stages, strict=True)):
        if isinstance(stage, Opaque) or not isinstance(entry, dict):
            entries.append(own)
            continue
        scalars = own if isinstance(own, dict) else {}
        entries.append(
            {
                k: jax.tree.unflatten(treedef, new[i, k]) if (i, k) in new else scalars.get(k, x)
                for k, x in entry.items()
            }
        )
    return State(plain.count, tuple(entries))


def _check(plan: Plan, state: Any) -> None:
    if not isinstance(state, State) or len(state.stages) != len(plan.stages):
        raise ValueError(f"expected the state of a chain with {len(plan.stages)} stages, got {state!r:.200}")
    for stored, entry in zip(plan.stored, state.stages, strict=True):
        expected = {slot.name for slot in stored}
        if expected and (not isinstance(entry, dict) or set(entry) != expected):
            raise ValueError(f"expected the slots {sorted(expected)} in the state, got {entry!r:.200}")


def _flat(plan: Plan, state: State) -> tuple[Values, Any]:
    """The arrays of every slot and part, leaf by leaf, and the structure of the parameters."""
    flat: Values = {}
    treedef = None
    for i, stored in enumerate(plan.stored):
        for slot in stored:
            if slot.role == "scalar":
                continue
            leaves, treedef = jax.tree.flatten(state.stages[i][slot.name], is_leaf=_is_masked)
            flat[i, slot.name] = leaves
    return flat, treedef


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _held(unit: Unit, flat: Values) -> list[int]:
    """The leaves that a unit keeps."""
    arrays = {part.name: flat[unit.home, part.name] for _, part in unit.arrays}
    count = len(next(iter(arrays.values())))
    return [i for i in range(count) if unit.holds({name: of[i] for name, of in arrays.items()})]


def _shapes(plan: Plan, flat: Values, params: Any) -> list[tuple[int, ...] | None]:
    """The shapes of the parameters, from the parameters, or else from what mirrors them."""
    if params is not None:
        return [jnp.shape(x) for x in jax.tree.leaves(params)]
    mirrors = [
        flat[i, slot.name] for i, stored in enumerate(plan.stored) for slot in stored if slot.role == "parameter"
    ]
    count = len(next(iter(flat.values())))
    return [next((of[i].shape for of in mirrors if not _is_masked(of[i])), None) for i in range(count)]


def _decode(unit: Unit, state: State, flat: Values, shapes: list[tuple[int, ...] | None], values: Values) -> None:
    numbers = {key: state.stages[unit.home][part.name] for key, part in unit.memory}
    for i, slot in unit.members:
        values[i, slot.name] = list(flat.get((i, slot.name), [optax.MaskedNode()] * _leaves(unit, flat)))
    for leaf in _held(unit, flat):
        parts = {key: flat[unit.home, part.name][leaf] for key, part in unit.arrays}
        shape = shapes[leaf]
        if shape is None:
            raise ValueError(
                f"{unit.codec!r} keeps a slot whose shape the state does not tell: give the parameters too"
            )
        decoded = decoded_values(unit.codec, [slot.name for _, slot in unit.members], parts, numbers, shape)
        for (i, slot), value in zip(unit.members, decoded, strict=True):
            values[i, slot.name][leaf] = dtypes.cast(value, np.dtype(np.float32))


def _leaves(unit: Unit, flat: Values) -> int:
    return len(flat[unit.home, unit.arrays[0][1].name])
