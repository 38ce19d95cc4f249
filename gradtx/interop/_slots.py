"""A chain's state as raw arrays by stage and leaf, and the state from them."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradtx._core import trees
from gradtx._core.order import label
from gradtx._core.plain import coded_state, plain_state
from gradtx._core.plan import linear, plan_for
from gradtx._core.slots import State
from gradtx._core.stages import Opaque, Stage, leaf_slots
from gradtx._core.start import where_stages_act
from gradtx._primitives.averages import WEIGHT
from gradtx.interop._raw import conversion_of
from gradtx.interop._weights import Weights, weight_arrays

Raws = dict[tuple[int, int], dict[str, Any]]  # {(stage, leaf): {name: float64 array}}
Once = dict[int, dict[str, Any]]  # {stage: {name: float64 scalar}}


class Layout(NamedTuple):
    """The stages of a chain that keep something, for the leaves of some parameters.

    Attributes:
        stages: all stages, in order.
        columns: for each leaf, the numbers of the stages that keep something for it.
        paths: the leaves' paths.
        leaves: the parameters.
        treedef: their structure.
    """

    stages: list[Stage]
    columns: list[list[int]]
    paths: list[str]
    leaves: list[Any]
    treedef: Any


def layout_of(tx: Any, params: Any, caller: str) -> Layout:
    """Where a chain keeps what.

    Raises:
        TypeError: `tx` is not a gradtx chain, or a stage of it keeps something that has no counterpart elsewhere.
    """
    if not isinstance(tx, Stage):
        hint = "; of a wrapped one give what is inside, tx.tx and state.inner" if hasattr(tx, "tx") else ""
        raise TypeError(f"{caller}: expected a gradtx chain, got {tx!r} of type {type(tx).__name__}{hint}")
    stages = linear(tx)
    leaves, treedef = trees.flatten(params, "the parameter")
    acts = where_stages_act(plan_for(jax.tree.structure(tx)), params)
    columns: list[list[int]] = [[] for _ in leaves]
    for i, stage in enumerate(stages):
        if isinstance(stage, Opaque):
            if jax.tree.leaves(jax.eval_shape(stage.transformation.init, params)):
                raise TypeError(f"{caller}: {stage!r} keeps a state of its own, which is moved by hand")
            continue
        if not stage.slots():
            continue
        conversion_of(stage)
        mine = acts.get(i)
        for n, column in enumerate(columns):
            if mine is None or mine[n]:
                column.append(i)
    return Layout(stages, columns, trees.leaf_paths(params), leaves, treedef)


def assemble(tx: Any, params: Any, layout: Layout, count: int, raws: Raws, once: Once | None = None) -> State:
    """The state of `tx` after `count` steps in which the raw arrays, and the raw numbers of stages, are these."""
    fresh = tx.init(params)
    template = plain_state(tx, fresh)
    entries = []
    for i, (stage, entry) in enumerate(zip(layout.stages, template.stages, strict=True)):
        if not isinstance(entry, dict):
            entries.append(entry)
            continue
        conversion = conversion_of(stage)
        numbers = (once or {}).get(i, {})
        weights = conversion.weights(stage, count, numbers)
        slots = {slot.name: layout.treedef.flatten_up_to(entry[slot.name]) for slot in leaf_slots(stage)}
        for n, column in enumerate(layout.columns):
            if i not in column:
                continue
            with jax.enable_x64(True):
                made = conversion.store({k: _wide(x) for k, x in raws[i, n].items()}, _sized(weights, layout, n))
                for name, value in made.items():
                    slots[name][n] = _like(value, slots[name][n])
        new = {name: jax.tree.unflatten(layout.treedef, arrays) for name, arrays in slots.items()}
        if WEIGHT in entry:
            new[WEIGHT] = _like(weight_arrays(weights, entry[WEIGHT].dtype), entry[WEIGHT])
        if conversion.once:
            with jax.enable_x64(True):
                made = conversion.store_once({k: _wide(x) for k, x in numbers.items()}, weights) if numbers else {}
                new.update({name: _like(made.get(name, entry[name]), entry[name]) for name in _scalars(stage)})
        entries.append(new)
    return coded_state(tx, State(_like(np.asarray(count, np.int32), template.count), tuple(entries)), fresh)


def raw_arrays(tx: Any, state: State, layout: Layout, caller: str) -> tuple[int, Raws, Once]:
    """The step count of a state, its raw arrays, and the raw numbers of stages."""
    if not isinstance(state, State) or len(state.stages) != len(layout.stages):
        raise ValueError(
            f"{caller}: expected the state of a chain with {len(layout.stages)} stages, got {state!r:.200}"
        )
    state = plain_state(tx, state)
    count = int(state.count)
    raws: Raws = {}
    once: Once = {}
    for i, (stage, entry) in enumerate(zip(layout.stages, state.stages, strict=True)):
        if not isinstance(entry, dict):
            continue
        conversion = conversion_of(stage)
        numbers = {name: entry[name] for name in _scalars(stage)}
        weights = conversion.weights(stage, count, numbers)
        if conversion.once:
            with jax.enable_x64(True):
                once[i] = conversion.load_once({k: _wide(x) for k, x in numbers.items()}, weights)
        slots = {slot.name: layout.treedef.flatten_up_to(entry[slot.name]) for slot in leaf_slots(stage)}
        for n, column in enumerate(layout.columns):
            if i in column:
                with jax.enable_x64(True):
                    kept = {name: _wide(arrays[n]) for name, arrays in slots.items()}
                    raws[i, n] = conversion.load(kept, _sized(weights, layout, n))
    return count, raws, once


def _scalars(stage: Stage) -> list[str]:
    return [slot.name for slot in stage.slots() if slot.role == "scalar"]


def _sized(weights: Weights, layout: Layout, n: int) -> Weights:
    return weights._replace(size=max(int(np.size(layout.leaves[n])), 1))


def raw_shape(stage: Stage, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a raw array for a parameter of this shape: that of the slot of its name."""
    return next((slot.shape_for(shape) or () for slot in leaf_slots(stage) if slot.name == name), shape)


def agreed_count(found: dict[str, int], given: int | None, caller: str, silent: str) -> int:
    """The one number of completed steps.

    Args:
        found: `{where: count}` of the other library.
        given: what the caller says.
        caller: the function that is called.
        silent: what to say if neither is there.
    """
    if given is not None:
        found = {**found, "count=": operator.index(given)}
    if not found:
        raise ValueError(f"{caller}: {silent}; give the number of completed steps: count=")
    if len(set(found.values())) > 1:
        first, count = next(iter(found.items()))
        where, other = next((k, v) for k, v in found.items() if v != count)
        raise ValueError(
            f"{caller}: expected one number of completed steps, got {count} ({first}) and {other} ({where})"
        )
    (count,) = set(found.values())
    if count < 0:
        raise ValueError(f"{caller}: expected a number of completed steps, got {count}")
    return count


def _wide(x: Any) -> jax.Array:
    """An array in float64 (complex128), where x64 is enabled."""
    array = jnp.asarray(x)
    return array.astype(np.complex128 if jnp.iscomplexobj(array) else np.float64)


def _like(value: Any, old: Any) -> Any:
    """A value in the dtype and place of the array it replaces."""
    with jax.enable_x64(True):
        if jnp.iscomplexobj(value) and not jnp.issubdtype(old.dtype, jnp.complexfloating):
            value = value.real  # Optax keeps squares of complex numbers as complex ones
        new = jnp.asarray(value).astype(old.dtype)
        if isinstance(old, jax.Array) and not isinstance(old, jax.core.Tracer) and old.committed:
            new = jax.device_put(new, old.sharding)
    return new


def is_masked(x: Any) -> bool:
    """Whether a tree has nothing for this leaf."""
    return isinstance(x, optax.MaskedNode)


def describe(stage: Stage) -> str:
    """What a message calls a stage."""
    return label(stage)
