"""`init` and `update` of a whole chain: check what came, run the plan, put the state back together."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from gradtx._core import foreign, program, trees
from gradtx._core.dtypes import compute_dtype, is_inexact, scalar_dtype
from gradtx._core.plan import Plan, Segment, label, plan_for
from gradtx._core.signal import Signal
from gradtx._core.slots import State, scalar_like_parameters, slot_dtype, zeros_like_parameter
from gradtx._core.stages import Foreign, Stage, parameter_slots


def init(tx: Stage, params: Any) -> State:
    """The state of a chain for these parameters."""
    plan = plan_for(jax.tree.structure(tx))
    leaves, treedef = trees.flatten(params, "the parameter")
    if plan.keeps_moments:
        for i, leaf in enumerate(leaves):
            if not is_inexact(leaf.dtype):
                raise TypeError(
                    f"leaf {trees.leaf_paths(params)[i]}: expected a floating or complex parameter, for which "
                    f"{plan.keeps_moments[0]} can keep a moment, got {leaf.dtype}{list(leaf.shape)}; "
                    "leave such leaves out (None), or mask them"
                )
    kept = tuple(_init_stage(stage, params, leaves, treedef) for stage in plan.stages)
    return State(scalar_like_parameters(leaves, (), np.dtype(np.int32)), kept)


def _init_stage(stage: Stage, params: Any, leaves: list[Any], treedef: Any) -> Any:
    if isinstance(stage, Foreign):
        return stage.transformation.init(params)
    slots = stage.slots()
    if not slots:
        return ()
    kept: dict[str, Any] = {}
    applies = stage.applies(params)
    for slot in slots:
        if slot.role == "scalar":
            kept[slot.name] = scalar_like_parameters(leaves, slot.shape, slot.dtype or scalar_dtype())
            continue
        arrays: list[Any] = []
        for i, leaf in enumerate(leaves):
            if applies is not None and not applies[i]:
                arrays.append(optax.MaskedNode())
                continue
            try:
                dtype = slot_dtype(slot, np.dtype(leaf.dtype))
            except TypeError as error:
                raise TypeError(f"leaf {trees.leaf_paths(params)[i]}: {error}") from error
            arrays.append(zeros_like_parameter(leaf, dtype))
        kept[slot.name] = jax.tree.unflatten(treedef, arrays)
    return kept


class _Leaves(NamedTuple):
    """The leaves of one call, flat."""

    gradients: list[Any]
    params: list[Any] | None
    treedef: Any
    tree: Any

    def dtypes(self, i: int) -> tuple[np.dtype | None, np.dtype]:
        return None if self.params is None else self.params[i].dtype, self.gradients[i].dtype


def update(tx: Stage, updates: Any, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Any, State]:
    """One step of a chain."""
    numbers, structure = jax.tree.flatten(tx)
    plan = plan_for(structure)
    here = _check(plan, updates, state, params)
    kept = [dict(entry) if isinstance(entry, dict) else entry for entry in state.stages]
    memories = tuple(_memory(stage, entry) for stage, entry in zip(plan.stages, kept, strict=True))
    count, scalars, memories = program.step_scalars(plan.numeric, numbers, state.count, memories)
    for entry, memory in zip(kept, memories, strict=True):
        if memory:
            entry.update(memory)

    signals: list[Any] = [Signal(g, clamp=plan.clamp) for g in here.gradients]
    for number, segment in enumerate(plan.segments):
        if segment.kind == "leafwise":
            signals = _run_leafwise(plan, number, scalars, here, params, signals, kept)
        elif segment.kind == "treewise":
            signals = _run_treewise(plan, segment, scalars, here, signals)
        else:
            signals = _run_foreign(plan, segment, here, params, signals, kept, extra)
    if not plan.segments:
        signals = [g.astype(program.out_dtype(*here.dtypes(i))) for i, g in enumerate(here.gradients)]
    return jax.tree.unflatten(here.treedef, signals), State(count, tuple(kept))


def _check(plan: Plan, updates: Any, state: Any, params: Any) -> _Leaves:
    gradients, treedef = trees.flatten(updates, "the gradient")
    param_leaves = None
    if params is not None:
        param_leaves = _params_like(treedef, updates, params)
    elif plan.needs_params:
        raise ValueError(
            f"{plan.needs_params[0]} needs the parameters: call update(gradients, state, params); params was None"
        )
    for i, gradient in enumerate(gradients):
        param = None if param_leaves is None else param_leaves[i]
        if not is_inexact(gradient.dtype) or param is not None:
            trees.check_gradient(gradient, param, updates, i)
    if not isinstance(state, State) or len(state.stages) != len(plan.stages):
        got = f"one with {len(state.stages)} stages" if isinstance(state, State) else f"a {type(state).__name__}"
        raise ValueError(f"expected the state of a chain with {len(plan.stages)} stages, from its init; got {got}")
    for stage, entry, expected in zip(plan.stages, state.stages, plan.slot_names, strict=True):
        if not isinstance(stage, Foreign) and (set(entry) if isinstance(entry, dict) else set()) != expected:
            found = sorted(entry) if isinstance(entry, dict) else "nothing"
            raise ValueError(
                f"{label(stage)}: expected the slots {sorted(expected)} in the state, got {found}; it was initialized for "
                "another chain, or a number was replaced by a schedule (or the reverse) since `init`"
            )
    return _Leaves(gradients, param_leaves, treedef, updates)


def _params_like(treedef: Any, updates: Any, params: Any) -> list[Any]:
    leaves, other = trees.flatten(params, "the parameter")
    if other != treedef:
        # The parameters are what the gradients must fit, so they are the reference of the message.
        trees.flatten_like(other, params, updates, "the gradients", "the parameters")
    return leaves


def _memory(stage: Stage, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or isinstance(stage, Foreign):
        return {}
    mirrors = {slot.name for slot in parameter_slots(stage)}
    return {name: value for name, value in entry.items() if name not in mirrors}


def _run_leafwise(
    plan: Plan,
    number: int,
    scalars: Any,
    here: _Leaves,
    params: Any,
    signals: list[Any],
    kept: list[Any],
) -> list[Any]:
    segment = plan.segments[number]
    slot_names = {i: [slot.name for slot in parameter_slots(plan.stages[i])] for i in segment.indices}
    old = {
        (i, name): trees.slot_leaves(here.treedef, kept[i][name], name, here.gradients, here.tree)
        for i, names in slot_names.items()
        for name in names
    }
    new: dict[tuple[int, str], list[Any]] = {key: [] for key in old}
    applies = {
        i: plan.stages[i].applies(here.tree if params is None else params) for i in plan.masked if i in slot_names
    }
    everywhere = tuple(i for i in segment.indices)
    needs_param = any("param" in plan.stages[i].requires for i in segment.indices)
    numbers = {everywhere: scalars.of(everywhere)}
    out = []
    for leaf, signal in enumerate(signals):
        active = everywhere
        if applies:
            active = tuple(i for i in everywhere if applies.get(i) is None or applies[i][leaf])  # type: ignore[index]
            if active not in numbers:
                numbers[active] = scalars.of(active)
        kind = program.leaf_kind(plan, number, active, *here.dtypes(leaf))
        slots = tuple({name: old[i, name][leaf] for name in slot_names[i]} for i in active)
        param = here.params[leaf] if needs_param and here.params is not None else None
        result, new_slots = program.leaf_program(kind, numbers[active], signal, param, slots)
        out.append(result)
        for i, group in zip(active, new_slots, strict=True):
            for name, array in group.items():
                new[i, name].append(array)
        for i in everywhere:
            if i not in active:
                for name in slot_names[i]:
                    new[i, name].append(optax.MaskedNode())
    for (i, name), arrays in new.items():
        kept[i][name] = jax.tree.unflatten(here.treedef, arrays)
    return out


def _leaf_dtypes(segment: Segment, here: _Leaves) -> tuple[tuple[np.dtype, np.dtype | None], ...]:
    rows = []
    for i in range(len(here.gradients)):
        param, grad = here.dtypes(i)
        out = program.out_dtype(param, grad) if segment.last else None
        rows.append((compute_dtype(grad if param is None else param), out))
    return tuple(rows)


def _run_treewise(plan: Plan, segment: Segment, scalars: Any, here: _Leaves, signals: list[Any]) -> list[Any]:
    (index,) = segment.indices
    updates = program.tree_program(
        plan.skeletons[index], scalars.of((index,)), [s.update for s in signals], _leaf_dtypes(segment, here)
    )
    return updates if segment.last else [s.write(u) for s, u in zip(signals, updates, strict=True)]


def _run_foreign(
    plan: Plan, segment: Segment, here: _Leaves, params: Any, signals: list[Any], kept: list[Any], extra: dict[str, Any]
) -> list[Any]:
    (index,) = segment.indices
    outgoing = [s.update.astype(program.out_dtype(*here.dtypes(i))) for i, s in enumerate(signals)]
    result, kept[index] = foreign.update(
        plan.stages[index], jax.tree.unflatten(here.treedef, outgoing), kept[index], params, extra
    )
    what = f"the update of {plan.stages[index]!r}"
    updates = trees.flatten_like(here.treedef, here.tree, result, what, "the gradients")
    for i, (new, old) in enumerate(zip(updates, outgoing, strict=True)):
        if new.shape != old.shape or not is_inexact(new.dtype):
            raise ValueError(
                f"leaf {trees.leaf_paths(here.tree)[i]}: expected {what} to be a floating array of shape {old.shape}, "
                f"got {new.dtype}{list(new.shape)}"
            )
    return updates if segment.last else [s.write(u) for s, u in zip(signals, updates, strict=True)]
