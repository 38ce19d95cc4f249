"""Optax's pair of fast and slow parameters, as a caller may hold it around a chain that looks ahead.

`optax.LookaheadParams` travels in place of the parameters: gradients are those of the fast ones, updates are pairs. A chain
keeps its slow parameters itself; given a pair, it takes the caller's for its own before the step, and says how they change.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

from gradtx._core import dtypes, trees
from gradtx._core.order import label
from gradtx._core.plan import Plan
from gradtx._core.program import out_dtype
from gradtx._core.slots import State

SLOW = "slow"


def is_pair(plan: Plan, params: Any) -> bool:
    """Whether these are the parameters of a chain in which a stage looks ahead, in pairs."""
    return isinstance(params, optax.LookaheadParams) and bool(_followers(plan))


def fast(plan: Plan, params: Any) -> Any:
    """The parameters that are trained."""
    return params.fast if is_pair(plan, params) else params


def with_slow(plan: Plan, state: Any, pair: Any) -> Any:
    """The state with the slow parameters of a pair in it.

    Raises:
        ValueError: they do not fit the fast ones, or the state keeps its slow ones in a codec's words.
    """
    leaves, treedef = trees.flatten(pair.fast, "the fast parameter")
    slow = trees.flatten_like(treedef, pair.fast, pair.slow, "the slow parameters", "the fast parameters")
    for i, (a, b) in enumerate(zip(leaves, slow, strict=True)):
        if a.shape != b.shape:
            raise ValueError(
                f"leaf {trees.leaf_paths(pair.fast)[i]}: expected a slow parameter of the fast one's shape {a.shape}, got "
                f"{b.shape}"
            )
    if not isinstance(state, State) or len(state.stages) != len(plan.stages):
        return state  # which the step will answer
    entries = list(state.stages)
    for i in _followers(plan):
        if any((i, SLOW) == (k, slot.name) for unit in plan.units for k, slot in unit.members):
            raise ValueError(
                f"{label(plan.stages[i])}: expected its slow parameters to be stored as they are, since the caller holds them "
                "in LookaheadParams; leave them out of the storage, or give the parameters alone"
            )
        if isinstance(entries[i], dict) and SLOW in entries[i]:
            kept = treedef.flatten_up_to(entries[i][SLOW])
            new = [x if _absent(x) else dtypes.cast(b, x.dtype) for x, b in zip(kept, slow, strict=True)]
            entries[i] = {**entries[i], SLOW: jax.tree.unflatten(treedef, new)}
    return state._replace(stages=tuple(entries))


def paired(plan: Plan, updates: Any, grads: Any, state: State, pair: Any) -> Any:
    """The updates of fast parameters with those of the slow ones. A leaf that no stage looks ahead for is its own slow one."""
    leaves, treedef = trees.flatten(updates, "the update")
    fasts, slows = (trees.flatten(tree, "the parameter")[0] for tree in (pair.fast, pair.slow))
    kept = [treedef.flatten_up_to(state.stages[i][SLOW]) for i in _followers(plan)]
    out = []
    for n, (update, param, slow, grad) in enumerate(
        zip(leaves, fasts, slows, trees.flatten(grads, "the gradient")[0], strict=True)
    ):
        mine = [arrays[n] for arrays in kept if not _absent(arrays[n])]
        wide = dtypes.compute_dtype(np.dtype(param.dtype))
        new = mine[-1] if mine else dtypes.cast(param, wide) + dtypes.cast(update, wide)
        change = dtypes.cast(new, wide) - dtypes.cast(slow, wide)
        out.append(dtypes.cast(change, out_dtype(np.dtype(slow.dtype), np.dtype(grad.dtype), rounds=False)))
    return optax.LookaheadParams(fast=updates, slow=jax.tree.unflatten(treedef, out))


def _followers(plan: Plan) -> list[int]:
    return [i for i, stage in enumerate(plan.stages) if getattr(stage, "looks_ahead", False)]


def _absent(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)
