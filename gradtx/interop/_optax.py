"""Optax states, both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradtx._core import trees
from gradtx._core.order import label
from gradtx._core.schedule import Schedule
from gradtx._primitives.previous import nesterov_difference
from gradtx._wrappers.accumulation import AccumulateGradients, AccumulateState
from gradtx.interop._optax_states import CONTAINERS, COUNTS, ONCE, RECORDS, Kinds, Place
from gradtx.interop._slots import (
    Layout,
    Once,
    Raws,
    _like,
    agreed_count,
    assemble,
    is_masked,
    layout_of,
    raw_arrays,
    raw_shape,
)


class _Record(NamedTuple):
    where: str
    state: Any
    fields: dict[str, Place]


def from_optax(tx: Any, optax_state: Any, params: Any, *, count: int | None = None) -> Any:
    """The state of a gradtx chain that goes on where an Optax optimizer stopped.

    Optax's raw averages become debiased means. States are matched by kind and in order, leaf by leaf, so masks and
    groups (`optax.masked`, `optax.partition`) fit `mask=` and `by_path` if they choose the same leaves.

    Args:
        tx: the gradtx chain, with the hyperparameters that the Optax optimizer had; or `accumulate_gradients` around one,
            for the state of `optax.MultiSteps`.
        optax_state: the state of the Optax optimizer.
        params: the parameters.
        count: the number of completed steps, if the state holds none (`optax.sgd` with a constant learning rate).

    Returns:
        A state for `tx.update`, float32 whatever dtype Optax kept (float64 for float64 parameters).

    Raises:
        TypeError: a state of Optax's, or a stage of `tx`, has no counterpart; or `tx` is no chain.
        ValueError: the two keep different things for a leaf, or in other shapes; or the step count is missing.
    """
    caller = "from_optax"
    if isinstance(tx, AccumulateGradients):
        return _from_multi_steps(tx, optax_state, params, count, caller)
    layout = layout_of(tx, params, caller)
    records, counts = _records(optax_state, caller)
    steps = agreed_count(counts, count, caller, "this Optax state holds no step count")
    raws: Raws = {(i, n): {} for n, column in enumerate(layout.columns) for i in column}
    once: Once = {}
    for n, i, name, record, field in _matches(layout, records, caller):
        _check_formula(layout, i, n, caller)
        for theirs, ours in ONCE.get(type(record.state).__name__, {}).items():
            once.setdefault(i, {})[ours] = getattr(record.state, theirs)
        array = _leaves(layout, record, field, caller)[n]
        shape = raw_shape(layout.stages[i], name, np.shape(layout.leaves[n]))
        if np.shape(array) != shape:
            raise ValueError(
                f"{caller}: leaf {layout.paths[n]}: expected {record.where}.{field} of shape {shape}, got {np.shape(array)}"
            )
        raws[i, n][name] = array
    return assemble(tx, params, layout, steps, raws, once)


def to_optax(tx: Any, state: Any, params: Any, *, like: Any) -> Any:
    """The Optax state with which an Optax optimizer goes on where a gradtx chain stopped.

    Args:
        tx: the gradtx chain.
        state: its state.
        params: the parameters.
        like: the Optax optimizer, or a state from its `init`. What is not an average (injected hyperparameters) is taken
            from there.

    Returns:
        A state of the structure and dtypes of `like`.

    Raises:
        TypeError: a state of Optax's, or a stage of `tx`, has no counterpart; or `tx` is no chain.
        ValueError: the two keep different things for a leaf.
    """
    caller = "to_optax"
    template = like.init(params) if isinstance(like, (optax.GradientTransformation, optax.MultiSteps)) else like
    if isinstance(tx, AccumulateGradients):
        return _to_multi_steps(tx, state, params, template, caller)
    layout = layout_of(tx, params, caller)
    records, _ = _records(template, caller)
    steps, raws, once = raw_arrays(tx, state, layout, caller)
    new: dict[tuple[str, str], list[Any]] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for n, i, name, record, field in _matches(layout, records, caller):
        _check_formula(layout, i, n, caller)
        key = record.where, field
        if key not in new:
            new[key] = list(_flat(layout, record, field, caller))
        new[key][n] = _shaped(raws[i, n][name], new[key][n])
        numbers[record.where] = once.get(i, {})

    def fill(node: Any, where: str) -> Any:
        changes: dict[str, Any] = {f: _like(np.asarray(steps), getattr(node, f)) for f in _counts(node)}
        for theirs, ours in ONCE.get(type(node).__name__, {}).items():
            if ours in numbers.get(where, {}):
                changes[theirs] = _like(numbers[where][ours], getattr(node, theirs))
        if type(node).__name__ in RECORDS:
            for field in RECORDS[type(node).__name__]:
                tree = getattr(node, field)
                changes[field] = (
                    jax.tree.unflatten(layout.treedef, new[where, field]) if (where, field) in new else tree
                )
        if "is_initial_step" in node._fields:
            changes["is_initial_step"] = _like(np.asarray(steps == 0), node.is_initial_step)
        return node._replace(**changes)

    return _rebuild(template, "state", fill, caller)


def _from_multi_steps(tx: Any, theirs: Any, params: Any, count: int | None, caller: str) -> AccumulateState:
    if not isinstance(theirs, optax.MultiStepsState):
        raise TypeError(f"{caller}: expected the state of optax.MultiSteps for {tx!r}, got a {type(theirs).__name__}")
    fresh = tx.init(params)
    steps = agreed_count({"state.gradient_step": int(theirs.gradient_step)}, count, caller, "")
    mean: Any = ()
    if jax.tree.leaves(fresh.mean):
        mean = jax.tree.map(_like, theirs.acc_grads, fresh.mean)
    elif int(theirs.mini_step):
        raise ValueError(f"{caller}: {int(theirs.mini_step)} gradients were gathered, of which every_k=1 knows nothing")
    inner = from_optax(tx.tx, theirs.inner_opt_state, params, count=steps)
    mini, done = _like(theirs.mini_step, fresh.mini_step), _like(np.asarray(steps), fresh.gradient_step)
    return AccumulateState(mini, done, mean, inner)


def _to_multi_steps(tx: Any, state: Any, params: Any, template: Any, caller: str) -> Any:
    if not isinstance(template, optax.MultiStepsState) or not isinstance(state, AccumulateState):
        raise TypeError(
            f"{caller}: expected the state of {tx!r} and optax.MultiSteps, got a {type(state).__name__} and a "
            f"{type(template).__name__}"
        )
    gathered = jax.tree.map(jnp.zeros_like, template.acc_grads)
    if int(state.mini_step):  # between rounds Optax has zeros there
        gathered = jax.tree.map(_like, state.mean, template.acc_grads)
    return template._replace(
        mini_step=_like(state.mini_step, template.mini_step),
        gradient_step=_like(state.gradient_step, template.gradient_step),
        inner_opt_state=to_optax(tx.tx, state.inner, params, like=template.inner_opt_state),
        acc_grads=gathered,
    )


def _rebuild(node: Any, where: str, visit: Callable[[Any, str], Any], caller: str) -> Any:
    """An Optax state in which each part is what `visit(part, path)` makes of it."""
    if hasattr(node, "_fields"):
        kind = type(node).__name__
        if kind not in RECORDS and kind not in CONTAINERS:
            raise TypeError(
                f"{caller}: {where} is a {kind}, which has no counterpart in a chain; those that have: "
                f"{', '.join(sorted(RECORDS))}"
            )
        inner = {f: _rebuild(getattr(node, f), f"{where}.{f}", visit, caller) for f in CONTAINERS.get(kind, ())}
        return visit(node._replace(**inner) if inner else node, where)
    if isinstance(node, (tuple, list)):
        return type(node)(_rebuild(x, f"{where}[{i}]", visit, caller) for i, x in enumerate(node))
    if isinstance(node, dict):
        return {k: _rebuild(x, f"{where}[{k!r}]", visit, caller) for k, x in node.items()}
    raise TypeError(
        f"{caller}: expected {where} to be a state of Optax's, got {node!r:.100} of type {type(node).__name__}"
    )


def _counts(node: Any) -> list[str]:
    name = COUNTS.get(type(node).__name__, "count")
    return [name] if name in node._fields else []


def _records(state: Any, caller: str) -> tuple[list[_Record], dict[str, int]]:
    """The parts of an Optax state that hold moments, in order, and all its step counts."""
    records: list[_Record] = []
    counts: dict[str, int] = {}

    def visit(node: Any, where: str) -> Any:
        kind = type(node).__name__
        if kind in RECORDS:
            records.append(_Record(where, node, RECORDS[kind]))
        for field in _counts(node):
            value = getattr(node, field)
            if not isinstance(value, jax.ShapeDtypeStruct):
                counts[f"{where}.{field}"] = int(value)
        return node

    _rebuild(state, "state", visit, caller)
    return records, counts


def _check_formula(layout: Layout, stage: int, leaf: int, caller: str) -> None:
    """Raise where Optax computes something else with the same averages."""
    found = layout.stages[stage]
    if isinstance(found, nesterov_difference) and not isinstance(found.b2, Schedule):
        expected = 1.0 - float(found.b2)
        if found.ahead is None and expected != float(found.b2):
            raise ValueError(
                f"{caller}: leaf {layout.paths[leaf]}: Optax's Adan looks {expected:g} ahead, and {label(found)} looks "
                f"{float(found.b2):g}, as the paper has it: expected a chain with nesterov_difference({float(found.b2):g}, "
                f"ahead={expected:g}), which goes on as Optax would"
            )


def _leaves(layout: Layout, record: _Record, field: str, caller: str) -> list[Any]:
    """A field's arrays, leaf by leaf; `optax.MaskedNode()` where there is none."""
    return [
        np.concatenate([np.asarray(part) for part in x]) if isinstance(x, list) and x else x
        for x in _flat(layout, record, field, caller)
    ]


def _shaped(array: Any, old: Any) -> Any:
    """An array in the dtype and place of the one it replaces, or in as many parts."""
    if not isinstance(old, list):
        return _like(array, old)
    cuts = np.cumsum([len(part) for part in old])[:-1]
    return [_like(part, was) for part, was in zip(np.split(np.asarray(array), cuts), old, strict=True)]


def _flat(layout: Layout, record: _Record, field: str, caller: str) -> list[Any]:
    tree = getattr(record.state, field)
    try:
        return layout.treedef.flatten_up_to(tree)
    except (ValueError, TypeError) as error:
        reference = jax.tree.unflatten(layout.treedef, layout.leaves)
        message = trees._structure_message(reference, tree, f"{record.where}.{field}", "the parameters")
        raise ValueError(f"{caller}: {message}") from error


def _matches(layout: Layout, records: list[_Record], caller: str) -> list[tuple[int, int, str, _Record, str]]:
    """`(leaf, stage, raw name, record, field)` for every array that a chain and an Optax state both keep."""
    flat = {(r.where, f): _leaves(layout, r, f, caller) for r in records for f in r.fields}
    found = []
    for n, column in enumerate(layout.columns):
        path, left = layout.paths[n], list(column)
        for record in records:
            mine: dict[Kinds, int] = {}
            for field, (kinds, name) in record.fields.items():
                if is_masked(flat[record.where, field][n]):
                    continue
                if kinds not in mine:
                    place = next((i for i in left if type(layout.stages[i]) in kinds), None)
                    if place is None:
                        raise ValueError(
                            f"{caller}: leaf {path}: {record.where} ({type(record.state).__name__}) has {field!r}, for which "
                            f"the chain has no {kinds[0].__name__} there; it keeps {_names(layout, column)}"
                        )
                    left.remove(place)
                    mine[kinds] = place
                found.append((n, mine[kinds], name, record, field))
        if left:
            raise ValueError(
                f"{caller}: leaf {path}: the Optax state has nothing for {_names(layout, left)}; it is made of "
                f"{', '.join(type(r.state).__name__ for r in records) or 'nothing that keeps moments'}"
            )
    return found


def _names(layout: Layout, stages: list[int]) -> str:
    return ", ".join(label(layout.stages[i]) for i in stages) or "nothing"
