"""What other libraries store: raw averages and sums, from and to the debiased means that gradtx stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.dtypes import scalar_dtype
from gradtx._core.hyperparameters import Decay
from gradtx._core.order import label
from gradtx._core.schedule import Schedule
from gradtx._core.signal import square
from gradtx._core.stages import Stage
from gradtx._primitives.averages import WEIGHT
from gradtx._primitives.belief import ema_belief_moment
from gradtx._primitives.covers import covered_second_moment, covered_sum_of_squares
from gradtx._primitives.deltas import scale_by_delta_rms
from gradtx._primitives.distance import scale_by_prodigy
from gradtx._primitives.infinity_norm import scale_by_infinity_norm
from gradtx._primitives.layer_moments import ema_squared_norm
from gradtx._primitives.moments import ema_centered_moment, ema_first_moment, ema_second_moment, sum_of_squares
from gradtx._primitives.momentum import trace
from gradtx._primitives.optimism import scale_by_optimistic_gradient
from gradtx._primitives.previous import nesterov_difference
from gradtx._primitives.rectification import ema_second_moment_of_length
from gradtx._primitives.resilient import scale_by_rprop
from gradtx._primitives.running_max import running_max
from gradtx._primitives.yogi import additive_second_moment
from gradtx.interop._nadam import scheduled_nesterov

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


class Conversion(NamedTuple):
    """How the slots of one kind of stage are computed from raw arrays, and back. Arrays are float64.

    Attributes:
        raw: the names of the raw arrays.
        store: `(raw, weights) -> slots`.
        load: `(slots, weights) -> raw`.
        weights: `(stage, count, "scalar" slots or raw numbers) -> Weights`.
        once: the names of the raw numbers that a stage has once.
        store_once: `(raw numbers, weights) -> "scalar" slots`.
        load_once: `("scalar" slots, weights) -> raw numbers`.
    """

    raw: tuple[str, ...]
    store: Callable[[Arrays, Weights], Arrays]
    load: Callable[[Arrays, Weights], Arrays]
    weights: Callable[[Any, int, Arrays], Weights]
    once: tuple[str, ...] = ()
    store_once: Callable[[Arrays, Weights], Arrays] = lambda raw, w: dict(raw)
    load_once: Callable[[Arrays, Weights], Arrays] = lambda slots, w: dict(slots)


def _divide(x: Any, weight: float) -> Any:
    return x / weight if weight else jnp.zeros_like(x)  # no step, or none that counted: the mean of nothing


def _average(stage: Any, decay: Any, count: int, kept: Arrays, *, unit_gain: bool = False) -> tuple[float, float]:
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


def _of_moment(name: str) -> Callable[[Any, int, Any], Weights]:
    def weights(stage: Any, count: int, kept: Arrays) -> Weights:
        total, left = _average(stage, getattr(stage, name), count, kept)
        return Weights(total, left, float(getattr(stage, "initial", 0.0)))

    return weights


def _of_trace(stage: Any, count: int, kept: Arrays) -> Weights:
    return Weights(*_average(stage, stage.decay, count, kept, unit_gain=True))


def _of_sum(stage: Any, count: int, kept: Arrays) -> Weights:
    return Weights(float(count), 1.0, float(stage.initial))


def _of_additive(stage: Any, count: int, kept: Arrays) -> Weights:
    # Ours starts with nothing and takes the initial value at the first step.
    return Weights(1.0, 0.0) if count else Weights(0.0, 1.0, float(stage.initial))


def _of_length(stage: Any, count: int, kept: Arrays) -> Weights:
    if isinstance(stage.b2, Schedule):
        raise TypeError(f"{label(stage)}: a scheduled b2 keeps the length of its average, which nobody else does")
    return _of_moment("b2")(stage, count, kept)


def _unchanged(stage: Any, count: int, kept: Arrays) -> Weights:
    return Weights(1.0, 0.0)


def _scaled(name: str, weights: Callable[[Any, int, Any], Weights]) -> Conversion:
    """One slot, the raw array divided by its weight."""

    def store(raw: Arrays, w: Weights) -> Arrays:
        return {name: _divide(raw[name] - _start(w), w.total)}

    def load(slots: Arrays, w: Weights) -> Arrays:
        return {name: slots[name] * w.total + _start(w)}

    return Conversion((name,), store, load, weights)


def _start(w: Weights) -> float:
    return w.start * w.left


def _store_centered(raw: Arrays, w: Weights) -> Arrays:
    mean = _divide(raw["mu"], w.total)
    # Variance is a difference there, and may come out negative by rounding.
    return {"mu": mean, "nu": jnp.maximum(_divide(raw["nu"] - _start(w), w.total) - square(mean), 0.0)}


def _load_centered(slots: Arrays, w: Weights) -> Arrays:
    return {"mu": slots["mu"] * w.total, "nu": (slots["nu"] + square(slots["mu"])) * w.total + _start(w)}


def _store_rprop(raw: Arrays, w: Weights) -> Arrays:
    return {"step_sizes": raw["step_sizes"], "previous_sign": jnp.sign(raw["previous_sign"])}


def _store_norm(raw: Arrays, w: Weights) -> Arrays:
    return {"nu": raw["nu"] / w.size}


def _load_norm(slots: Arrays, w: Weights) -> Arrays:
    return {"nu": slots["nu"] * w.size}


def _load_as_is(slots: Arrays, w: Weights) -> Arrays:
    return dict(slots)


def _of_belief(stage: Any, count: int, kept: Arrays) -> Weights:
    weights = _of_moment("b2")(stage, count, kept)
    # What is added at every step is in the raw average, and not in the state.
    return weights if stage.floor_moves() else weights._replace(floor=float(stage.eps_root) / stage.b2.complement)


def _store_belief(raw: Arrays, w: Weights) -> Arrays:
    return {"nu": jnp.maximum(_divide(raw["nu"], w.total) - w.floor, 0.0)}


def _load_belief(slots: Arrays, w: Weights) -> Arrays:
    return {"nu": (slots["nu"] + w.floor) * w.total}


def _of_covers(stage: Any, count: int, kept: Arrays) -> Weights:
    if isinstance(stage, covered_second_moment):
        return _of_moment("b2")(stage, count, kept)
    return Weights(float(count), 1.0)


def _store_difference(raw: Arrays, w: Weights) -> Arrays:
    return {**raw, "mu_difference": _divide(raw["mu_difference"], w.total)}


def _load_difference(slots: Arrays, w: Weights) -> Arrays:
    return {**slots, "mu_difference": slots["mu_difference"] * w.total}


def _of_prodigy(stage: Any, count: int, kept: Arrays) -> Weights:
    total, left = _average(stage, stage.b1, count, {})
    second, _ = _average(stage, stage.b2, count, {})
    first = float(stage.estim_lr0)
    # Ours are measured in the last step's length; for arrays that come from elsewhere the estimate will do as well.
    length = kept.get("previous_lr", kept.get("estim_lr"))
    unit = float(length) if count and length is not None else first
    return Weights(total, left, second=second, unit=unit, first_unit=first)


# Optax's sums are in units of the first estimate.
def _store_prodigy(raw: Arrays, w: Weights) -> Arrays:
    return {
        "mu": _divide(raw["mu"] / w.unit, w.total),
        "nu": _divide(raw["nu"] / w.unit**2, w.second),
        "grad_sum": raw["grad_sum"] * (w.first_unit / w.unit**2),
        "params0": raw["params0"],
    }


def _load_prodigy(slots: Arrays, w: Weights) -> Arrays:
    return {
        "mu": slots["mu"] * (w.unit * w.total),
        "nu": slots["nu"] * (w.unit**2 * w.second),
        "grad_sum": slots["grad_sum"] * (w.unit**2 / w.first_unit),
        "params0": slots["params0"],
    }


def _store_prodigy_once(raw: Arrays, w: Weights) -> Arrays:
    estimate = raw["estim_lr"]
    return {"estim_lr": estimate, "previous_lr": w.unit, "numerator": raw["numerator"] * (w.first_unit / w.unit**2)}


def _load_prodigy_once(slots: Arrays, w: Weights) -> Arrays:
    estimate = slots["estim_lr"]
    numerator = slots["numerator"] * (w.unit**2 / w.first_unit)
    return {"estim_lr": jnp.where(estimate == 0, w.first_unit, estimate), "numerator": numerator}


CONVERSIONS: dict[type[Stage], Conversion] = {
    ema_first_moment: _scaled("mu", _of_moment("b1")),
    ema_second_moment: _scaled("nu", _of_moment("b2")),
    ema_centered_moment: Conversion(("mu", "nu"), _store_centered, _load_centered, _of_moment("decay")),
    ema_second_moment_of_length: _scaled("nu", _of_length),
    ema_belief_moment: Conversion(("nu",), _store_belief, _load_belief, _of_belief),
    ema_squared_norm: Conversion(("nu",), _store_norm, _load_norm, _unchanged),
    additive_second_moment: _scaled("nu", _of_additive),
    scale_by_infinity_norm: _scaled("nu", _unchanged),
    sum_of_squares: _scaled("nu", _of_sum),
    trace: _scaled("trace", _of_trace),
    scale_by_delta_rms: _scaled("delta", _of_moment("rho")),
    running_max: _scaled("nu_max", _unchanged),
    scale_by_optimistic_gradient: _scaled("previous_gradient", _unchanged),
    scale_by_rprop: Conversion(("step_sizes", "previous_sign"), _store_rprop, _load_as_is, _unchanged),
    covered_sum_of_squares: _scaled("nu", _of_covers),
    covered_second_moment: _scaled("nu", _of_covers),
    nesterov_difference: Conversion(
        ("mu_difference", "previous_gradient"), _store_difference, _load_difference, _of_moment("b2")
    ),
    scheduled_nesterov: Conversion((), _load_as_is, _load_as_is, _unchanged, ("mu_product",)),
    scale_by_prodigy: Conversion(
        ("mu", "nu", "grad_sum", "params0"),
        _store_prodigy,
        _load_prodigy,
        _of_prodigy,
        ("estim_lr", "numerator"),
        _store_prodigy_once,
        _load_prodigy_once,
    ),
}


def conversion_of(stage: Stage) -> Conversion:
    """The conversion for a stage.

    Raises:
        TypeError: there is none for its kind.
    """
    found = CONVERSIONS.get(type(stage))
    if found is None:
        known = ", ".join(sorted(kind.__name__ for kind in CONVERSIONS))
        raise TypeError(f"{label(stage)}: its state has no counterpart elsewhere; those that have: {known}")
    return found


def decay_of(stage: Stage) -> Any:
    """The decay of a stage as a float; None if it has none, or follows a schedule."""
    for name in ("b1", "b2", "decay", "rho"):
        value = getattr(stage, name, None)
        if isinstance(value, Decay):
            return float(value)
    return None


def weight_arrays(w: Weights, dtype: Any) -> np.ndarray:
    """The slot that a stage with a scheduled decay keeps: the total weight as two floats, and what is left."""
    high = np.asarray(w.total, dtype)
    return np.asarray([high, w.total - float(high), w.left], dtype)


__all__ = ["CONVERSIONS", "WEIGHT", "Conversion", "Weights", "conversion_of", "decay_of", "weight_arrays"]
