"""Forgetting the past at regular intervals."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes
from gradtx._core.slots import scalar_like_parameters
from gradtx._wrappers.wrapping import Conditional, cast_like, inside


class RestartState(NamedTuple):
    """The state of `restart_every`.

    Attributes:
        since: int32 scalar, the steps since the last restart.
        inner: the state of the transformation inside.
    """

    since: jax.Array
    inner: Any


class RestartEvery(Conditional):
    """A transformation that starts anew at intervals. Build it with `restart_every`."""

    period: int = 1

    built_by: ClassVar[str] = "restart_every"
    state_type: ClassVar[Any] = RestartState
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.period, int) or self.period < 1:
            raise ValueError(f"restart_every(period=...): expected an int of at least 1, got {self.period!r}")

    def init(self, params: Any) -> RestartState:
        return RestartState(
            scalar_like_parameters(jax.tree.leaves(params), (), np.dtype(np.int32)), self.tx.init(params)
        )

    def advance(self, updates: Any, state: RestartState, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        if params is None:
            raise ValueError(
                "restart_every needs the parameters: call update(gradients, state, params); params was None"
            )
        new_updates, inner = self.tx.update(updates, state.inner, params, **extra)
        ends = state.since + 1 >= self.period
        inner = jax.lax.cond(
            ends, lambda: cast_like(self._anew(params, new_updates), inner), lambda: cast_like(inner, inner)
        )
        return new_updates, RestartState(jnp.where(ends, 0, state.since + 1), inner)

    def _anew(self, params: Any, updates: Any) -> Any:
        """The state of a fresh start: from where this step leads, for stages that keep a copy of the parameters."""
        with jax.numpy_dtype_promotion("standard"):
            return self.tx.init(jax.tree.map(lambda p, u: dtypes.cast(p + u, p.dtype), params, updates))


def restart_every(tx: Any, period: int) -> RestartEvery:
    """Set the state of `tx` back to a fresh one, its count included, after every `period` steps.

    Args:
        tx: a transformation, gradtx's or Optax's.
        period: the steps between two restarts, an int >= 1.

    Returns:
        A transformation whose state is a `RestartState`.

    Raises:
        ValueError: `period` is not an int >= 1; from `update`, if the parameters are missing.
    """
    return RestartEvery((inside("restart_every", tx),), period)
