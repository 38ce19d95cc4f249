"""Schedules in float64, from the steps that are left. `CASES[name] = (build, exact)`: gradtx's or Optax's, and its values."""

import math

import numpy as np


def straight(t, start, end, steps, begin=0, power=1.0):
    """In float64, from the steps that are left."""
    left = (steps - np.clip(t - begin, 0, steps)) / steps
    done = np.clip(t - begin, 0, steps) / steps
    with np.errstate(divide="ignore"):
        lacking = np.where(left == 0, 1.0, -np.expm1(power * np.log1p(-np.where(left == 0, 0, done))))
    return start * left**power + end * lacking


def cosine(t, start, end, steps, begin=0):
    left = steps - np.clip(t - begin, 0, steps)
    return start * np.sin(np.pi * left / (2 * steps)) ** 2 + end * np.sin(np.pi * (steps - left) / (2 * steps)) ** 2


def geometric(t, start, steps, rate, begin=0):
    return start * np.exp2(np.maximum(t - begin, 0) / steps * math.log2(rate))


def onecycle(t, steps, peak, middle=None):
    first, low, last = int(0.3 * steps), peak / 25, peak / 25e4
    if middle is None:
        return np.where(t < first, cosine(t, low, peak, first), cosine(t, peak, last, steps - first, first))
    middle = int(middle * steps)
    down = straight(t, peak, low, middle - first, first)
    end = straight(t, low, low * 1e-4, steps - middle, middle)
    return np.where(t < first, straight(t, low, peak, first), np.where(t < middle, down, end))


T = 10_000
CASES = {
    "linear": (lambda library: library.linear_schedule(0.3, 0.0, T, 7), lambda t: straight(t, 0.3, 0.0, T, 7)),
    "linear_up": (lambda library: library.linear_schedule(0.0, 0.3, T), lambda t: straight(t, 0.0, 0.3, T)),
    "linear_between": (lambda library: library.linear_schedule(0.3, 1e-5, T), lambda t: straight(t, 0.3, 1e-5, T)),
    "polynomial": (
        lambda library: library.polynomial_schedule(0.3, 1e-7, 2.0, T),
        lambda t: straight(t, 0.3, 1e-7, T, 0, 2.0),
    ),
    "polynomial_up": (
        lambda library: library.polynomial_schedule(0.0, 0.3, 0.5, T),
        lambda t: straight(t, 0.0, 0.3, T, 0, 0.5),
    ),
    "exponential": (
        lambda library: library.exponential_decay(0.3, 100, 0.9, 5),
        lambda t: geometric(t, 0.3, 100, 0.9, 5),
    ),
    "exponential_slow": (
        lambda library: library.exponential_decay(0.3, 1, 0.9999),
        lambda t: geometric(t, 0.3, 1, 0.9999),
    ),
    "exponential_steep": (
        lambda library: library.exponential_decay(0.3, 250, 0.3),
        lambda t: geometric(t, 0.3, 250, 0.3),
    ),
    "exponential_up": (
        lambda library: library.exponential_decay(1e-9, 500, 3.0),
        lambda t: geometric(t, 1e-9, 500, 3.0),
    ),
    "staircase": (
        lambda library: library.exponential_decay(0.3, 100, 0.9, staircase=True),
        lambda t: geometric(t // 100, 0.3, 1, 0.9),
    ),
    "bounded": (
        lambda library: library.exponential_decay(0.3, 100, 0.9, end_value=1e-3),
        lambda t: np.maximum(geometric(t, 0.3, 100, 0.9), 1e-3),
    ),
    "cosine": (lambda library: library.cosine_decay_schedule(0.3, T), lambda t: cosine(t, 0.3, 0.0, T)),
    "cosine_alpha": (lambda library: library.cosine_decay_schedule(0.3, T, 1e-4), lambda t: cosine(t, 0.3, 0.3e-4, T)),
    "cosine_exponent": (
        lambda library: library.cosine_decay_schedule(0.3, T, 0.0, 1.5),
        lambda t: 0.3 * (cosine(t, 1.0, 0.0, T)) ** 1.5,
    ),
    "warmup_constant": (
        lambda library: library.warmup_constant_schedule(0.0, 0.3, T),
        lambda t: straight(t, 0.0, 0.3, T),
    ),
    "warmup_cosine": (
        lambda library: library.warmup_cosine_decay_schedule(0.0, 0.3, 1000, T, 1e-6),
        lambda t: np.where(t < 1000, straight(t, 0.0, 0.3, 1000), cosine(t, 0.3, 1e-6, T - 1000, 1000)),
    ),
    "warmup_exponential": (
        lambda library: library.warmup_exponential_decay_schedule(0.0, 0.3, 1000, 100, 0.9),
        lambda t: np.where(t < 1000, straight(t, 0.0, 0.3, 1000), geometric(t, 0.3, 100, 0.9, 1000)),
    ),
    "piecewise_constant": (
        lambda library: library.piecewise_constant_schedule(0.3, {100: 0.5, 5000: 1e-3}),
        lambda t: 0.3 * np.where(t >= 100, 0.5, 1.0) * np.where(t >= 5000, 1e-3, 1.0),
    ),
    "linear_onecycle": (lambda library: library.linear_onecycle_schedule(T, 0.3), lambda t: onecycle(t, T, 0.3, 0.85)),
    "cosine_onecycle": (lambda library: library.cosine_onecycle_schedule(T, 0.3), lambda t: onecycle(t, T, 0.3)),
}


def largest_error(found, exact):
    found, exact = np.asarray(found, np.float64), np.asarray(exact, np.float64)
    np.testing.assert_array_equal(found[exact == 0], 0.0)
    seen = exact != 0
    return float(np.max(np.abs(found[seen] - exact[seen]) / np.abs(exact[seen])))
