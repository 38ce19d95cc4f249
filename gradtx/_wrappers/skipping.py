"""Skipping steps whose gradients are not finite."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.slots import scalar_like_parameters
from gradtx._wrappers.wrapping import Conditional, all_finite, increment, inside, step_or_stay


class SkipState(NamedTuple):
    """The state of `skip_nonfinite`.

    Attributes:
        total: int32 scalar, the steps skipped so far.
        consecutive: int32 scalar, the steps skipped since the last one that was made.
        inner: the state of the transformation inside.
    """

    total: jax.Array
    consecutive: jax.Array
    inner: Any

    @property
    def last_skipped(self) -> jax.Array:
        """Whether the last step was skipped: bool scalar."""
        return self.consecutive > 0


class SkipNonfinite(Conditional):
    """A transformation that steps only on finite gradients. Build it with `skip_nonfinite`."""

    built_by: ClassVar[str] = "skip_nonfinite"
    state_type: ClassVar[Any] = SkipState
    ignores_zeros: ClassVar[bool] = True

    def init(self, params: Any) -> SkipState:
        leaves = jax.tree.leaves(params)
        total, consecutive = (scalar_like_parameters(leaves, (), np.dtype(np.int32)) for _ in range(2))
        return SkipState(total, consecutive, self.tx.init(params))

    def advance(self, updates: Any, state: SkipState, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        finite = all_finite(updates)
        new_updates, inner = step_or_stay(finite, self.tx, updates, state.inner, params, extra, like=updates)
        total = jnp.where(finite, state.total, increment(state.total))
        return new_updates, SkipState(total, jnp.where(finite, 0, increment(state.consecutive)), inner)


def skip_nonfinite(tx: Any) -> SkipNonfinite:
    """Skip every step in whose gradients there is an infinity or a NaN.

    A skipped step gives zero updates and leaves the state of `tx` as it was, its count included. **None is ever
    applied**: Optax's `apply_if_finite` gives up after `max_consecutive_errors` and applies the next NaN. A compiled
    step cannot raise, so watch the counts from outside, where they cost one transfer whenever you look:

        if state.consecutive > 10: raise RuntimeError("diverged: 10 steps in a row without finite gradients")

    Args:
        tx: a transformation, gradtx's or Optax's. What stands in front of this one in a chain runs on every step.

    Returns:
        A transformation whose state is a `SkipState`: `total`, `consecutive`, `last_skipped`.
    """
    return SkipNonfinite((inside("skip_nonfinite", tx),))
