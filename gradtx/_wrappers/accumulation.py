"""Gradient accumulation: one optimizer step from several micro-batches."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes
from gradtx._core.slots import scalar_like_parameters, zeros_like_parameter
from gradtx._wrappers.wrapping import (
    Conditional,
    cast_like,
    find_state,
    in_compute_dtype,
    increment,
    inside,
    stay,
    step,
)


class AccumulateState(NamedTuple):
    """The state of `accumulate_gradients`.

    Attributes:
        mini_step: int32 scalar, the gradients gathered in this round.
        gradient_step: int32 scalar, the rounds completed: the steps that the optimizer has made.
        mean: like the parameters, the mean of the gradients of this round, float32 (float64 for float64 parameters);
            `()` where every round is one gradient. While `mini_step` is 0 it is left over from the last round.
        inner: the state of the transformation inside.
    """

    mini_step: jax.Array
    gradient_step: jax.Array
    mean: Any
    inner: Any


class AccumulateGradients(Conditional):
    """A transformation that steps once a round. Build it with `accumulate_gradients`."""

    every_k: Any = 1

    built_by: ClassVar[str] = "accumulate_gradients"
    state_type: ClassVar[Any] = AccumulateState
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        k = self.every_k
        if callable(k):
            return
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
            raise TypeError(f"accumulate_gradients(every_k=...): expected an int or a schedule of one, got {k!r}")
        if k < 1:
            raise ValueError(f"accumulate_gradients(every_k=...): expected at least 1, got {k}")
        object.__setattr__(self, "every_k", int(k))

    def init(self, params: Any) -> AccumulateState:
        leaves = jax.tree.leaves(params)
        inner = self.tx.init(params)
        mean: Any = ()
        if self.every_k != 1:
            mean = jax.tree.map(lambda p: zeros_like_parameter(p, dtypes.compute_dtype(np.dtype(p.dtype))), params)
        mini, steps = (scalar_like_parameters(leaves, (), np.dtype(np.int32)) for _ in range(2))
        return AccumulateState(mini, steps, mean, inner)

    def advance(self, updates: Any, state: AccumulateState, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        if (type(state.mean) is tuple and not state.mean) != (self.every_k == 1) and jax.tree.leaves(updates):
            raise ValueError(
                f"accumulate_gradients(every_k={self.every_k!r}): the state was initialized for another every_k: with 1 "
                "it holds no mean, otherwise it does"
            )
        if self.every_k == 1:
            updates, inner = self.tx.update(updates, state.inner, params, **extra)
            return updates, AccumulateState(state.mini_step, increment(state.gradient_step), (), inner)
        gathered = state.mini_step + 1
        last = gathered >= self._length(state.gradient_step)
        # The mean is computed in either branch: in the one it is read and not written, in the other the reverse.
        (new_updates, inner), mean = jax.lax.cond(
            last,
            lambda: (
                step(self.tx, self._mean(state, updates, params), state.inner, params, extra, like=updates),
                state.mean,
            ),
            lambda: (stay(self.tx, state.inner, params, like=updates), self._mean(state, updates, params)),
        )
        steps = jnp.where(last, increment(state.gradient_step), state.gradient_step)
        return new_updates, AccumulateState(jnp.where(last, 0, gathered), steps, mean, inner)

    def _length(self, gradient_step: jax.Array) -> Any:
        if not callable(self.every_k):
            return self.every_k
        with jax.numpy_dtype_promotion("standard"):
            return jnp.maximum(jnp.asarray(self.every_k(gradient_step)).astype(jnp.int32), 1)

    def _mean(self, state: AccumulateState, updates: Any, params: Any) -> Any:
        first = state.mini_step == 0

        def one(mean: jax.Array, g: jax.Array) -> jax.Array:
            share = 1 / (state.mini_step + 1).astype(dtypes.real_dtype(np.dtype(mean.dtype)))
            with jax.numpy_dtype_promotion("standard"):
                return jnp.where(first, g, mean + (g - mean) * share)  # not 0 * mean: an infinity would stay

        return jax.tree.map(one, state.mean, cast_like(in_compute_dtype(updates, params), state.mean))


def accumulate_gradients(tx: Any, every_k: Any) -> AccumulateGradients:
    r"""Let `tx` step once in `every_k` calls, with the mean of the gradients of those calls.

    $$\bar g_i = \bar g_{i-1} + \frac{g_i - \bar g_{i-1}}{i}, \quad i = 1 \dots k$$

    `k` micro-batches of equal size make the step of one batch that is `k` times as large, if the loss is a mean over its
    examples. In between the updates are zero and `tx` does not run, so its count, its schedules and its moments see
    real steps. The keywords that reach `tx` are those of the round's last call. A round that training leaves incomplete
    has changed nothing but the state; it goes on with the next call, also after a checkpoint.

    An average of the parameters belongs inside (`accumulate_gradients(chain(adamw(...), average_parameters(...)), 8)`),
    where it counts steps; a stage that rounds parameters works in either place.

    Args:
        tx: a transformation, gradtx's or Optax's.
        every_k: the calls in one round, an int >= 1, or a function of the rounds completed (int32 scalar) to one: the
            batch grows as training goes on. 1 adds nothing: no mean is kept.

    Returns:
        A transformation whose state is an `AccumulateState`; `has_updated(state)` says whether its last call was a step.

    Raises:
        TypeError: `every_k` is neither.
        ValueError: `every_k` is smaller than 1, or a state was made for `every_k=1` and goes on with more (or the
            reverse).
    """
    return AccumulateGradients((inside("accumulate_gradients", tx),), every_k)


def has_updated(state: Any) -> jax.Array:
    """Whether the last call completed a round of `accumulate_gradients`, and the optimizer stepped.

    Args:
        state: a state with an `AccumulateState` anywhere in it.

    Returns:
        bool scalar; False before the first call.
    """
    found = find_state(state, AccumulateState, "accumulate_gradients")
    return jnp.logical_and(found.mini_step == 0, found.gradient_step > 0)
