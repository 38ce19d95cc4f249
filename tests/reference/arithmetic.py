"""What the oracles share: quotients and hyperparameters, and the unit in which errors are given."""

import numpy as np


def quotient(x, y):
    """`x / y` with 0/0 = 0."""
    x, y = np.broadcast_arrays(x, y)
    return np.divide(x, y, out=np.zeros_like(x), where=y != 0)


def value(number, t):
    """A hyperparameter at step t = 1, 2, ...; a schedule is given the number of completed steps."""
    return number(t - 1) if callable(number) else number


def ulp_error(u, exact, dtype=np.float32):
    """|u - exact| in units of the last place that `dtype` has at `exact`."""
    exact = np.asarray(exact, np.float64)
    spacing = np.spacing(np.abs(exact).astype(dtype)).astype(np.float64)
    return np.abs(np.asarray(u, np.float64) - exact) / spacing


def median_ulp(u, exact):
    """The median error in float32 ULP over the elements that move, in which there is a last place to speak of."""
    exact = np.asarray(exact, np.float64)
    moves = exact != 0
    return float(np.median(ulp_error(u, exact)[moves]))
