"""Second moments bounded by what each row, column, ... has seen: one vector an axis in place of an array."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.hyperparameters import decay_field
from gradtx._core.moments import SecondMoment
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import average, towards, weight_slot

Slots = dict[str, jax.Array]


def _cover_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) < 2 else (sum(shape),)


class covered_sum_of_squares(Leafwise):
    r"""Bound the sum of the squared gradients by maxima over the slices of each axis; the update passes through.

    $$v_t(i) = \min_{S \ni i} \mu_{t-1}(S) + |g_t(i)|^2, \qquad \mu_t(S) = \max_{i \in S} v_t(i), \qquad \mu_0 = 0$$

    where the sets $S$ are the rows, the columns, and so on: for each axis the slices across it. A leaf with one axis or
    none keeps $v$ itself. $v$ is what the stages behind it see as the second moment.

    State:
        `nu`: real: $\mu$ of all axes one behind the other, divided by the number of steps, since a float32 sum stops
        growing and a mean does not.

    Source:
        Anil, Gupta, Koren & Singer, "Memory-Efficient Adaptive Optimization", arXiv:1901.11150, Algorithm SM3-II.
    """

    estimates: ClassVar[Literal["first", "second"] | None] = "second"
    squares: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    recalls: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("nu", role="factored", real=True, shape=_cover_shape),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return {"rate": 1 / step.t, "weight": step.t}, {}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"nu": _largest(self._moment(s, slots, signal))}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        second = SecondMoment(
            self._moment(s, s.old, signal), s.weight, jnp.zeros_like(s.weight), has_bias=self._has_bias()
        )
        return signal.replace(second=second)

    def _moment(self, s: SimpleNamespace, before: Slots, signal: Signal) -> jax.Array:
        squares = signal.squares
        return towards(_least(before["nu"], squares), squares, s.rate)

    def _has_bias(self) -> bool:
        return False


class covered_second_moment(covered_sum_of_squares):
    r"""The same for a running average of the squares in place of their sum.

    $$v_t(i) = b_2 \min_{S \ni i} \mu_{t-1}(S) + (1 - b_2) |g_t(i)|^2$$

    Args:
        b2: the decay $b_2$ in [0, 1); may be a schedule.

    State:
        `nu`: real: $\mu$ of all axes one behind the other, debiased. `weight`: float[3], only if the decay is a schedule.

    Source:
        As `covered_sum_of_squares`, with the average of Adam.
    """

    b2: Any = decay_field(default=0.999)

    def slots(self) -> tuple[Slot, ...]:
        return (*super().slots(), *weight_slot(self.b2))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        numbers, memory = average(step, self.b2)
        return {name: numbers[name] for name in ("rate", "weight")}, memory

    def _has_bias(self) -> bool:
        return True


def _least(covers: jax.Array, like: jax.Array) -> jax.Array:
    """For each element of an array the least of the covers it is in."""
    if like.ndim < 2:
        return covers
    parts = jnp.split(covers, np.cumsum(like.shape)[:-1].tolist())
    least = jnp.full_like(like, jnp.inf)  # and sharded like it
    for axis, part in enumerate(parts):
        least = jnp.minimum(least, part.reshape([-1 if i == axis else 1 for i in range(like.ndim)]))
    return least


def _largest(moment: jax.Array) -> jax.Array:
    """The largest in each slice across each axis, axis after axis."""
    if moment.ndim < 2:
        return moment
    axes = range(moment.ndim)
    return jnp.concatenate([_whole(jnp.max(moment, [a for a in axes if a != axis], initial=0)) for axis in axes])


def _whole(x: jax.Array) -> jax.Array:
    """An array that a mesh with explicit axes would keep in parts, gathered; elsewhere the compiler sees to that."""
    sharding = getattr(jax.typeof(x), "sharding", None)
    if all(axis is None for axis in getattr(sharding, "spec", ())):
        return x
    return jax.sharding.reshard(x, jax.sharding.PartitionSpec())
