"""What came into one call of `update`, checked and flat."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gradtx._core import program, trees
from gradtx._core.order import label
from gradtx._core.plan import Plan
from gradtx._core.slots import State
from gradtx._core.stages import Opaque


class Incoming(NamedTuple):
    """The leaves of one call, flat."""

    gradients: list[Any]
    params: list[Any] | None
    treedef: Any
    tree: Any
    rounds: bool

    def dtypes(self, i: int) -> tuple[np.dtype | None, np.dtype]:
        return None if self.params is None else self.params[i].dtype, self.gradients[i].dtype

    def out(self, i: int) -> np.dtype:
        """The dtype of a leaf's update."""
        return program.out_dtype(*self.dtypes(i), rounds=self.rounds)


def checked(plan: Plan, updates: Any, state: Any, params: Any) -> Incoming:
    """The leaves of one call.

    Raises:
        ValueError: parameters are missing, the trees do not fit, or the state is not of this chain.
    """
    if params is None and plan.needs_params:
        raise ValueError(
            f"{plan.needs_params[0]} needs the parameters: call update(gradients, state, params); params was None"
        )
    gradients, param_leaves, treedef = trees.fitting(updates, params)
    if not isinstance(state, State) or len(state.stages) != len(plan.stages):
        got = f"one with {len(state.stages)} stages" if isinstance(state, State) else f"a {type(state).__name__}"
        raise ValueError(f"expected the state of a chain with {len(plan.stages)} stages, from its init; got {got}")
    for stage, entry, expected in zip(plan.stages, state.stages, plan.slot_names, strict=True):
        if not isinstance(stage, Opaque) and (set(entry) if isinstance(entry, dict) else set()) != expected:
            found = sorted(entry) if isinstance(entry, dict) else "nothing"
            raise ValueError(
                f"{label(stage)}: expected the slots {sorted(expected)} in the state, got {found}; it was initialized for "
                "another chain, or a number was replaced by a schedule (or the reverse) since `init`"
            )
    return Incoming(gradients, param_leaves, treedef, updates, plan.rounds)
