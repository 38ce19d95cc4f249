"""`init` of a whole chain: where each stage acts, and what it keeps before the first step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradtx._core import pairs, trees
from gradtx._core.dtypes import compute_dtype, is_inexact, scalar_dtype
from gradtx._core.order import label
from gradtx._core.plan import Plan, linear, plan_for, skeleton
from gradtx._core.slots import State, initial_array, scalar_like_parameters, slot_dtype
from gradtx._core.stages import Opaque, Stage, Wrapped, leaf_slots
from gradtx._core.storage import CodecError, initial_parts


def init(tx: Stage, params: Any) -> State:
    """The state of a chain for these parameters."""
    plan = plan_for(jax.tree.structure(tx))
    params = pairs.fast(plan, params)
    leaves, treedef = trees.flatten(params, "the parameter")
    acts = where_stages_act(plan, params)
    for i, leaf in enumerate(leaves):
        if is_inexact(leaf.dtype):
            continue
        keeping = [k for k in plan.keeps_moments if (own := acts.get(k)) is None or own[i]]
        if keeping:
            raise TypeError(
                f"leaf {trees.leaf_paths(params)[i]}: expected a floating or complex parameter, for which "
                f"{label(plan.stages[keeping[0]])} can keep a moment, got {leaf.dtype}{list(leaf.shape)}; "
                "leave such leaves out (None), or mask them"
            )
    stages = with_numbers(plan, tx)
    entries: list[Any] = []
    for number, stage in enumerate(stages):
        here = acts.get(number)
        if isinstance(stage, Opaque):
            entries.append(stage.transformation.init(only(treedef, leaves, here) if here is not None else params))
            continue
        entry: dict[str, Any] = {}
        for slot in plan.stored[number]:
            if slot.role == "scalar":
                assert not callable(slot.shape)
                entry[slot.name] = scalar_like_parameters(leaves, slot.shape, slot.dtype or scalar_dtype())
            else:
                entry[slot.name] = [optax.MaskedNode()] * len(leaves)
        entries.append(entry)
    for i, leaf in enumerate(leaves):
        try:
            acting = [(own := acts.get(k)) is None or own[i] for k in range(len(stages))]
            _init_leaf(plan, i, leaf, acting, entries)
        except (TypeError, CodecError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"leaf {trees.leaf_paths(params)[i]}: {error}") from error
    for number, entry in enumerate(entries):
        if isinstance(stages[number], Opaque):
            continue
        trees_of = {k: jax.tree.unflatten(treedef, x) if isinstance(x, list) else x for k, x in entry.items()}
        entries[number] = trees_of or ()
    return State(scalar_like_parameters(leaves, (), np.dtype(np.int32)), tuple(entries))


def _init_leaf(plan: Plan, i: int, leaf: Any, acts: list[bool], entries: list[Any]) -> None:
    """Put what is kept for one parameter into the entries of the stages that act on it."""
    coded: dict[tuple[int, str], Any] = {}
    for unit in plan.units:
        slots = tuple(slot for _, slot in unit.members)
        if not all(acts[k] for k, _ in unit.members) or not unit.codec.fits(tuple(jnp.shape(leaf))):
            continue
        unit.codec.check(slots, compute_dtype(np.dtype(leaf.dtype)))
        coded.update({(k, slot.name): unit for k, slot in unit.members})
        for name, array in initial_parts(unit, leaf).items():
            entries[unit.home][name][i] = array
    for number, stage in enumerate(plan.stages):
        if isinstance(stage, Opaque) or not acts[number]:
            continue
        for slot in leaf_slots(stage):
            if (number, slot.name) not in coded:
                array = initial_array(slot, leaf, slot_dtype(slot, np.dtype(leaf.dtype)))
                if array is not None:
                    entries[number][slot.name][i] = array


def where_stages_act(plan: Plan, params: Any) -> dict[int, list[bool] | None]:
    """For each stage with a mask or in a group, whether it acts on each leaf."""
    groups: dict[int, list[int]] = {}
    acts: dict[int, list[bool] | None] = {}
    for i in plan.masked:
        here = plan.stages[i].applies(params)
        for composite, number in plan.selectors[i]:
            if id(composite) not in groups:
                groups[id(composite)] = composite.assign(params)
            inside = [group == number for group in groups[id(composite)]]
            here = inside if here is None else [a and b for a, b in zip(here, inside, strict=True)]
        acts[i] = here
    return acts


def as_stages_act(plan: Plan, params: Any) -> dict[int, list[Stage]]:
    """For each stage that acts on every leaf as another one, the skeletons of those."""
    found = {i: plan.stages[i].at_leaves(params) for i in plan.varied}
    return {i: list(map(skeleton, stages)) for i, stages in found.items() if stages is not None}


def with_numbers(plan: Plan, tx: Stage) -> Any:
    """The stages; those that a plan cannot call, since it knows no numbers, as they stand in `tx`."""
    return linear(tx) if any(isinstance(stage, Wrapped) for stage in plan.stages) else plan.stages


def only(treedef: Any, leaves: list[Any], acts: list[bool]) -> Any:
    """A tree with nothing where a stage does not act."""
    return jax.tree.unflatten(treedef, [x if a else optax.MaskedNode() for x, a in zip(leaves, acts, strict=True)])
