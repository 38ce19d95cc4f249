"""Moving a state to parameters of other shapes, or to another chain."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradtx._core.plan import plan_for
from gradtx._core.slots import State
from gradtx._core.trees import path_name
from gradtx._inspect import access, walk
from gradtx._inspect.outline import outline

Fill = Literal["fresh", "mean"] | Callable[[jax.Array, jax.Array], jax.Array]


def carry_state(old_tx: Any, state: Any, tx: Any, params: Any, fill: Fill = "fresh") -> Any:
    """The state of another chain, or for parameters of other shapes, with what the old one had learned.

    A stage that both chains have keeps its slots, whatever has been put around or between them, also if one of them stores
    it in another way; what is kept by the same codec keeps its words. A leaf keeps its arrays by its path; where its shape
    changed, the part that both shapes have (old rows of a vocabulary that was extended); new leaves and new stages start
    fresh. The step count is the old one.

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
    ways = _same_stages(old_tx, tx)
    fresh = _with_numbers_of_codecs(tx, tx.init(params), old_tx, state, ways)
    before = {h.key: h.kept for h in access.holders(old_tx, state)}
    partner = {h.key: before[ways[h.key]] for h in access.holders(tx, fresh) if ways.get(h.key) in before}

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
        return access.placed(jnp.copy(jnp.asarray(old)).astype(new.dtype), new)
    if new.ndim != old.ndim:
        raise ValueError(
            f"carry_state: leaf {name}: expected {new.ndim} axes, as its new shape {new.shape} has, got {old.shape}"
        )
    filled = new
    if fill == "mean":
        filled = jnp.full_like(new, jnp.mean(old).astype(new.dtype))
    elif callable(fill):
        filled = access.fitted(fill(new, old), new, name)
    both = tuple(slice(0, min(a, b)) for a, b in zip(new.shape, old.shape, strict=True))
    return access.placed(filled.at[both].set(old[both].astype(new.dtype)), new)


def _same_stages(old_tx: Any, tx: Any) -> dict[walk.Way, walk.Way]:
    """For stages and wrappers of the new chain the way to the same one of the old chain."""
    lines = [[line for line in outline(t) if line.kind in ("stage", "wrapper")] for t in (old_tx, tx)]
    labels = [[f"{line.kind} {line.label}" for line in some] for some in lines]
    blocks = difflib.SequenceMatcher(None, labels[0], labels[1], autojunk=False).get_matching_blocks()
    return {
        y.way: x.way
        for a, b, size in blocks
        for x, y in zip(lines[0][a : a + size], lines[1][b : b + size], strict=True)
    }


def _with_numbers_of_codecs(tx: Any, fresh: Any, old_tx: Any, state: Any, ways: dict[walk.Way, walk.Way]) -> Any:
    """The fresh state with the scales of codecs that both chains have: what was decoded by them is encoded to the same words."""
    before = _numbers_of_codecs(old_tx, state)
    new = {}
    for (members, part), (codec, array) in _numbers_of_codecs(tx, fresh).items():
        old = before.get((tuple(ways.get(way) for way in members), part))
        if old is not None and _format(old[0]) == _format(codec):
            new[id(array)] = access.placed(jnp.copy(jnp.asarray(old[1])), array)
    return jax.tree.map(lambda x: new.get(id(x), x), fresh)


def _format(codec: Any) -> Any:
    """A codec without what does not change how it reads its words."""
    return codec._with(min_size=0, seed=0)


def _numbers_of_codecs(tx: Any, state: Any) -> dict[tuple[Any, str], tuple[Any, Any]]:
    """`{(ways to the stages whose slots it keeps, name of the part): (codec, scalar)}`, at any depth."""
    found = {}
    for part in walk.parts(tx, state):
        if not isinstance(part.state, State):
            continue
        positions = walk.positions(part.tx)
        for unit in plan_for(jax.tree.structure(part.tx)).units:
            members = tuple((*part.way, *(positions[i].way or ())) for i, _ in unit.members)
            for _, slot in unit.memory:
                found[members, slot.name] = unit.codec, part.state.stages[unit.home][slot.name]
    return found


def _with_counts(tx: Any, state: Any, old_tx: Any, old: Any) -> Any:
    """The state with the step counts of the old one: of the innermost chain, which has counted steps."""
    counts = [part.state.count for part in walk.parts(old_tx, old) if isinstance(part.state, State)]
    ours = [part.state for part in walk.parts(tx, state) if isinstance(part.state, State)]
    by_rank = counts if len(counts) == len(ours) else [counts[-1]] * len(ours)
    given = iter(by_rank)

    def visit(x: Any) -> Any:
        if not isinstance(x, State):
            return x
        count = access.placed(jnp.copy(jnp.asarray(next(given))), x.count)
        return State(count, jax.tree.map(visit, x.stages, is_leaf=lambda y: isinstance(y, State)))

    return jax.tree.map(visit, state, is_leaf=lambda y: isinstance(y, State))
