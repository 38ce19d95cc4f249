"""What other libraries store: raw averages and sums, from and to the debiased means that gradtx stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from gradtx._core.hyperparameters import Decay
from gradtx._core.order import label
from gradtx._core.safe import square
from gradtx._core.stages import Stage
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
from gradtx.interop._weights import (
    Weights,
    of_additive,
    of_belief,
    of_covers,
    of_length,
    of_moment,
    of_prodigy,
    of_sum,
    of_trace,
    unchanged,
)

Arrays = dict[str, Any]


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


def _store_belief(raw: Arrays, w: Weights) -> Arrays:
    return {"nu": jnp.maximum(_divide(raw["nu"], w.total) - w.floor, 0.0)}


def _load_belief(slots: Arrays, w: Weights) -> Arrays:
    return {"nu": (slots["nu"] + w.floor) * w.total}


def _store_difference(raw: Arrays, w: Weights) -> Arrays:
    return {**raw, "mu_difference": _divide(raw["mu_difference"], w.total)}


def _load_difference(slots: Arrays, w: Weights) -> Arrays:
    return {**slots, "mu_difference": slots["mu_difference"] * w.total}


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
    ema_first_moment: _scaled("mu", of_moment("b1")),
    ema_second_moment: _scaled("nu", of_moment("b2")),
    ema_centered_moment: Conversion(("mu", "nu"), _store_centered, _load_centered, of_moment("decay")),
    ema_second_moment_of_length: _scaled("nu", of_length),
    ema_belief_moment: Conversion(("nu",), _store_belief, _load_belief, of_belief),
    ema_squared_norm: Conversion(("nu",), _store_norm, _load_norm, unchanged),
    additive_second_moment: _scaled("nu", of_additive),
    scale_by_infinity_norm: _scaled("nu", unchanged),
    sum_of_squares: _scaled("nu", of_sum),
    trace: _scaled("trace", of_trace),
    scale_by_delta_rms: _scaled("delta", of_moment("rho")),
    running_max: _scaled("nu_max", unchanged),
    scale_by_optimistic_gradient: _scaled("previous_gradient", unchanged),
    scale_by_rprop: Conversion(("step_sizes", "previous_sign"), _store_rprop, _load_as_is, unchanged),
    covered_sum_of_squares: _scaled("nu", of_covers),
    covered_second_moment: _scaled("nu", of_covers),
    nesterov_difference: Conversion(
        ("mu_difference", "previous_gradient"), _store_difference, _load_difference, of_moment("b2")
    ),
    scheduled_nesterov: Conversion((), _load_as_is, _load_as_is, unchanged, ("mu_product",)),
    scale_by_prodigy: Conversion(
        ("mu", "nu", "grad_sum", "params0"),
        _store_prodigy,
        _load_prodigy,
        of_prodigy,
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
