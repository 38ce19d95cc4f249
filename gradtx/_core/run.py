"""`update` of a whole chain: run the plan, put the state back together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradtx._core import foreign, pairs, program, trees
from gradtx._core.dtypes import compute_dtype, is_inexact
from gradtx._core.functions import is_static, watch
from gradtx._core.incoming import Incoming, checked
from gradtx._core.order import label
from gradtx._core.plan import Plan, Segment, plan_for, units_here
from gradtx._core.signal import Signal
from gradtx._core.slots import State
from gradtx._core.stages import Stage, Wrapped
from gradtx._core.start import as_stages_act, only, where_stages_act, with_numbers
from gradtx._core.storage import CodecError
from gradtx._core.tree_program import TreeKind, tree_program


def update(tx: Stage, updates: Any, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
    """One step of a chain."""
    plan = plan_for(jax.tree.structure(tx))
    if plan.memoryless and not isinstance(state, State) and not jax.tree.leaves(state):
        # None, (), EmptyState: what Optax's users give to stages that keep nothing.
        blank = State(jnp.zeros((), jnp.int32), ((),) * len(plan.stages))
        return step(plan, tx, updates, blank, params, extra)[0], state
    if pairs.is_pair(plan, params):
        changes, new = step(plan, tx, updates, pairs.with_slow(plan, state, params), params.fast, extra)
        return pairs.paired(plan, changes, updates, new, params), new
    return step(plan, tx, updates, state, params, extra)


Watch = Callable[[Segment, list[Any], list[Any], list[Any]], None]


def step(
    plan: Plan, tx: Stage, updates: Any, state: Any, params: Any, extra: dict[str, Any], watch: Watch | None = None
) -> tuple[Any, State]:
    """One step of a chain by a plan. `watch` is told what went in and came out of each segment, and what is kept."""
    numbers = jax.tree.leaves(tx)
    for stage in plan.stages:
        for name in getattr(stage, "keywords", ()):
            if name not in extra:
                raise foreign.missing_keyword(label(stage), name, extra)
    here = checked(plan, updates, state, params)
    kept = [dict(entry) if isinstance(entry, dict) else entry for entry in state.stages]
    memories = tuple(_memory(plan, i, entry) for i, entry in enumerate(kept))
    count, scalars, memories = program.step_scalars(
        plan.numeric, len(here.gradients) == 1, numbers, state.count, memories
    )
    for entry, memory in zip(kept, memories, strict=True):
        if memory:
            entry.update(memory)

    tree = updates if params is None else params
    acts = where_stages_act(plan, tree)
    others = as_stages_act(plan, tree)
    signals: list[Any] = [Signal(g, clamp=plan.clamp) for g in here.gradients]
    for number, segment in enumerate(plan.segments):
        before = signals if watch is None else list(signals)
        if segment.kind == "leafwise":
            signals = _run_leafwise(plan, number, scalars, here, acts, others, signals, kept, state.count)
            if watch is not None:
                watch(segment, before, signals, kept)
            continue
        (index,) = segment.indices
        mine = acts.get(index)
        chosen = [i for i in range(len(signals)) if mine is None or mine[i]]
        if segment.kind == "treewise":
            results = _run_treewise(plan, segment, scalars, here, chosen, signals, kept, extra, state.count)
        else:
            stage = with_numbers(plan, tx)[index]
            results = _run_foreign(stage, segment, here, params, mine, signals, kept, index, extra)
        for i in chosen:
            signals[i] = results[i]
        if segment.last and mine is not None:
            signals = [s.update if isinstance(s, Signal) else s for s in signals]
            signals = [s.astype(here.out(i)) for i, s in enumerate(signals)]
        if watch is not None:
            watch(segment, before, signals, kept)
    if not plan.segments:
        signals = [g.astype(here.out(i)) for i, g in enumerate(here.gradients)]
    return jax.tree.unflatten(here.treedef, signals), State(count, tuple(kept))


def _memory(plan: Plan, index: int, entry: Any) -> dict[str, Any]:
    return {slot.name: entry[slot.name] for slot in plan.stored[index] if slot.role == "scalar"}


def _slots_of(plan: Plan, index: int, here: Incoming, kept: list[Any]) -> dict[str, list[Any]]:
    """The arrays that a stage keeps for the leaves, by name; `optax.MaskedNode()` where a leaf has none."""
    return {
        slot.name: trees.slot_leaves(
            here.treedef,
            kept[index][slot.name],
            slot,
            here.gradients,
            here.tree,
            coded=(index, slot.name) in plan.coded,
        )
        for slot in plan.stored[index]
        if slot.role != "scalar"
    }


def _units_held(
    plan: Plan, indices: tuple[int, ...], slots: dict[int, dict[str, Any]], leaf: int, tree: Any
) -> tuple[int, ...]:
    """Which codecs keep slots of a leaf. The state says so: inside `shard_map` a leaf is smaller than it was."""
    held = []
    for unit in plan.units:
        if unit.home in indices:
            kept = _of_leaf(slots[unit.home], leaf)
            if unit.holds(kept):
                held.append(unit.number)
                continue
            try:
                unit.check_held(kept)
            except ValueError as error:
                raise ValueError(f"leaf {trees.leaf_paths(tree)[leaf]}: {error}") from error
    return tuple(held)


def _of_leaf(slots: dict[str, list[Any]], leaf: int) -> dict[str, Any]:
    found = {name: arrays[leaf] for name, arrays in slots.items()}
    return {name: x for name, x in found.items() if not isinstance(x, optax.MaskedNode)}


def _run_leafwise(
    plan: Plan,
    number: int,
    scalars: Any,
    here: Incoming,
    acts: dict[int, list[bool] | None],
    others: dict[int, list[Stage]],
    signals: list[Any],
    kept: list[Any],
    count: Any,
) -> list[Any]:
    segment = plan.segments[number]
    everywhere = tuple(segment.indices)
    slots = {i: _slots_of(plan, i, here, kept) for i in everywhere}
    masks = {i: own for i in everywhere if (own := acts.get(i)) is not None}
    needs_param = any("param" in plan.stages[i].requires for i in everywhere)
    draws = any(getattr(plan.stages[i], "randomized", False) for i in everywhere) or any(
        unit.codec.randomized for unit in plan.units if unit.home in everywhere
    )
    numbers = {everywhere: scalars.of(everywhere)}
    out = []
    for leaf, signal in enumerate(signals):
        active = everywhere
        if masks:
            active = tuple(i for i in everywhere if i not in masks or masks[i][leaf])
            if active not in numbers:
                numbers[active] = scalars.of(active)
        held = _units_held(plan, active, slots, leaf, here.tree) if plan.units else ()
        instead = tuple((i, others[i][leaf]) for i in active if i in others) if others else ()
        kind = program.leaf_kind(plan, number, active, held, *here.dtypes(leaf), instead)
        old = tuple(_of_leaf(slots[i], leaf) for i in active)
        param = here.params[leaf] if needs_param and here.params is not None else None
        place = {"count": count, "leaf": np.int32(leaf)} if draws else {}
        try:
            result, new = program.leaf_program(kind, numbers[active], signal, param, old, place)
        except CodecError as error:
            raise ValueError(f"leaf {trees.leaf_paths(here.tree)[leaf]}: {error}") from error
        out.append(result)
        for i, group in zip(active, new, strict=True):
            for name, array in group.items():
                slots[i][name][leaf] = array
    for i, arrays in slots.items():
        for name, leaves in arrays.items():
            kept[i][name] = jax.tree.unflatten(here.treedef, leaves)
    return out


def _run_treewise(
    plan: Plan,
    segment: Segment,
    scalars: Any,
    here: Incoming,
    chosen: list[int],
    signals: list[Any],
    kept: list[Any],
    extra: dict[str, Any],
    count: Any,
) -> dict[int, Any]:
    (index,) = segment.indices
    stage: Any = plan.skeletons[index]
    given = {name: extra[name] for name in stage.keywords}
    static = tuple((name, x) for name, x in given.items() if is_static(x))
    watch(static)
    dtypes = []
    for i in chosen:
        param, grad = here.dtypes(i)
        compute = compute_dtype(grad if param is None else param)
        dtypes.append((compute, here.out(i) if segment.last else compute))
    slots = _slots_of(plan, index, here, kept)
    held = [_units_held(plan, (index,), {index: slots}, i, here.tree) for i in chosen]
    kind = TreeKind(
        stage,
        tuple(dtypes),
        segment.last,
        tuple(chosen),
        here.treedef,
        segment.keep,
        static,
        tuple(units_here(plan, (index,), units) for units in held),
    )
    own = {slot.name for slot in plan.stages[index].slots()}
    memory = {name: x for name, x in _memory(plan, index, kept[index]).items() if name in own}
    results, new_slots, memory = tree_program(
        kind,
        scalars.of((index,)),
        [signals[i] for i in chosen],
        here.params if "param" in stage.requires else None,
        [_of_leaf(slots, i) for i in chosen],
        memory,
        {name: x for name, x in given.items() if not is_static(x)},
        count,
    )
    for i, group in zip(chosen, new_slots, strict=True):
        for name, array in group.items():
            slots[name][i] = array
    for name, arrays in slots.items():
        kept[index][name] = jax.tree.unflatten(here.treedef, arrays)
    if memory:
        kept[index].update(memory)
    return dict(zip(chosen, results, strict=True))


def _run_foreign(
    stage: Any,
    segment: Segment,
    here: Incoming,
    params: Any,
    acts: list[bool] | None,
    signals: list[Any],
    kept: list[Any],
    index: int,
    extra: dict[str, Any],
) -> dict[int, Any]:
    ours = isinstance(stage, Wrapped)  # which works in float32 like any stage of ours; Optax's get what callers pass

    def dtype(i: int) -> np.dtype:
        param, grad = here.dtypes(i)
        return compute_dtype(grad if param is None else param) if ours else program.out_dtype(param, grad, rounds=False)

    outgoing: list[Any] = [s.update.astype(dtype(i)) for i, s in enumerate(signals)]
    treedef, tree = here.treedef, here.tree
    if acts is not None:
        tree = only(treedef, here.gradients, acts)
        if params is not None:
            assert here.params is not None
            params = only(treedef, here.params, acts)
        outgoing, treedef = [x for x, a in zip(outgoing, acts, strict=True) if a], jax.tree.structure(tree)
    result, kept[index] = foreign.update(stage, jax.tree.unflatten(treedef, outgoing), kept[index], params, extra)
    what = f"the update of {stage!r}"
    updates = trees.flatten_like(treedef, tree, result, what, "the gradients")
    chosen = [i for i in range(len(signals)) if acts is None or acts[i]]
    for i, new, old in zip(chosen, updates, outgoing, strict=True):
        if new.shape != old.shape or not is_inexact(new.dtype):
            raise ValueError(
                f"leaf {trees.leaf_paths(here.tree)[i]}: expected {what} to be a floating array of shape {old.shape}, "
                f"got {new.dtype}{list(new.shape)}"
            )
    if ours and segment.last:
        updates = [u.astype(here.out(i)) for i, u in zip(chosen, updates, strict=True)]
    if segment.last:
        return dict(zip(chosen, updates, strict=True))
    written = {i: signals[i].write(update) for i, update in zip(chosen, updates, strict=True)}
    return {i: s.replace(sense=s.sense.turned()) if stage.turns else s for i, s in written.items()}
