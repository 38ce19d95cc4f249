"""What the past weighs in the averages of stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.dtypes import scalar_dtype
from gradtx._core.order import label
from gradtx._core.schedule import Schedule
from gradtx._core.stages import Stage
from gradtx._primitives.averages import WEIGHT
from gradtx._primitives.covers import covered_second_moment

Arrays = dict[str, Any]


class Weights(NamedTuple):
    """What the past weighs in a raw average after some steps, as float64.

    Attributes:
        total: `w`, by which a debiased mean is multiplied to be the raw average.
        left: the product of the decays, by which the initial value has shrunk.
        start: the initial value of the average.
        size: the number of elements of the leaf.
        second: `w` of a second average of the stage.
        floor: what is in the raw average at every step, and not in the mean.
        unit: what the raw arrays are measured in, where a stage keeps them in units of its own.
        first_unit: that unit before the first step.
    """

    total: float
    left: float
    start: float = 0.0
    size: int = 1
    second: float = 1.0
    floor: float = 0.0
    unit: float = 1.0
    first_unit: float = 1.0


def average_of(stage: Any, decay: Any, count: int, kept: Arrays, *, unit_gain: bool = False) -> tuple[float, float]:
    """The total weight after `count` steps, and what is left of the start."""
    if WEIGHT in kept:
        high, low, left = np.asarray(kept[WEIGHT], np.float64)
        return float(high + low), float(left) if count else 1.0
    if isinstance(decay, Schedule):
        total, left = 0.0, 1.0
        for complement in _complements(stage, decay, count):
            total += (1.0 if unit_gain else complement) - complement * total
            left *= 1.0 - complement
        return total, left
    complement = decay.complement
    if not isinstance(complement, float) and np.ndim(complement):
        raise ValueError(f"{label(stage)}: expected one decay rate, got an array of shape {np.shape(complement)}")
    complement = float(complement)
    left = (1.0 - complement) ** count if complement == 1.0 else float(np.exp(count * np.log1p(-complement)))
    total = 1.0 - left if complement == 1.0 else -float(np.expm1(count * np.log1p(-complement)))
    return total / complement if unit_gain else total, left


def _complements(stage: Stage, schedule: Schedule, count: int) -> Any:
    """`1 - b` at each of the steps so far, as the steps themselves compute it."""
    if not count:
        return []
    with jax.numpy_dtype_promotion("standard"):
        values = jax.lax.map(lambda c: jnp.asarray(schedule(c), scalar_dtype()), jnp.arange(count, dtype=jnp.int32))
    if values.ndim != 1:
        raise ValueError(f"{label(stage)}: expected a schedule of scalars, got shape {values.shape[1:]}")
    return (1.0 - np.asarray(values, np.float64)).tolist()


def of_moment(name: str) -> Callable[[Any, int, Any], Weights]:
    def weights(stage: Any, count: int, kept: Arrays) -> Weights:
        total, left = average_of(stage, getattr(stage, name), count, kept)
        return Weights(total, left, float(getattr(stage, "initial", 0.0)))

    return weights


def of_trace(stage: Any, count: int, kept: Arrays) -> Weights:
    return Weights(*average_of(stage, stage.decay, count, kept, unit_gain=True))


def of_sum(stage: Any, count: int, kept: Arrays) -> Weights:
    return Weights(float(count), 1.0, float(stage.initial))


def of_additive(stage: Any, count: int, kept: Arrays) -> Weights:
    # Ours starts with nothing and takes the initial value at the first step.
    return Weights(1.0, 0.0) if count else Weights(0.0, 1.0, float(stage.initial))


def of_length(stage: Any, count: int, kept: Arrays) -> Weights:
    if isinstance(stage.b2, Schedule):
        raise TypeError(f"{label(stage)}: a scheduled b2 keeps the length of its average, which nobody else does")
    return of_moment("b2")(stage, count, kept)


def unchanged(stage: Any, count: int, kept: Arrays) -> Weights:
    return Weights(1.0, 0.0)


def of_belief(stage: Any, count: int, kept: Arrays) -> Weights:
    weights = of_moment("b2")(stage, count, kept)
    # What is added at every step is in the raw average, and not in the state.
    return weights if stage.floor_moves() else weights._replace(floor=float(stage.eps_root) / stage.b2.complement)


def of_covers(stage: Any, count: int, kept: Arrays) -> Weights:
    if isinstance(stage, covered_second_moment):
        return of_moment("b2")(stage, count, kept)
    return Weights(float(count), 1.0)


def of_prodigy(stage: Any, count: int, kept: Arrays) -> Weights:
    total, left = average_of(stage, stage.b1, count, {})
    second, _ = average_of(stage, stage.b2, count, {})
    first = float(stage.estim_lr0)
    # Ours are measured in the last step's length; for arrays that come from elsewhere the estimate will do as well.
    length = kept.get("previous_lr", kept.get("estim_lr"))
    unit = float(length) if count and length is not None else first
    return Weights(total, left, second=second, unit=unit, first_unit=first)


def weight_arrays(w: Weights, dtype: Any) -> np.ndarray:
    """The slot that a stage with a scheduled decay keeps: the total weight as two floats, and what is left."""
    high = np.asarray(w.total, dtype)
    return np.asarray([high, w.total - float(high), w.left], dtype)
