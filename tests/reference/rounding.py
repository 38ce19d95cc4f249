"""Rounding of parameters by brute force: every value of a 16-bit dtype in a table, distances in float64."""

from __future__ import annotations

import functools

import jax
import numpy as np


class Grid:
    """The finite values of bfloat16 or float16 in float64, in their order.

    What the float32 units flush to zero (below 2**-126) is zero here as well; only bfloat16 has such values.
    """

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)
        with np.errstate(invalid="ignore"):  # signalling NaN
            every = np.arange(1 << 16, dtype=np.uint16).view(self.dtype).astype(np.float64)
        values = np.unique(flushed(every[np.isfinite(every)]))
        self.values = values + 0.0  # one zero
        self.largest = values[-1]
        # Ties go to the value with an even last bit.
        self.even = self.values.astype(self.dtype).view(np.uint16) % 2 == 0

    def below(self, x):
        """The largest value that is not above `x`, which is within the range; and the next one."""
        i = np.clip(np.searchsorted(self.values, x, side="right") - 1, 0, len(self.values) - 1)
        return self.values[i], self.values[np.minimum(i + 1, len(self.values) - 1)]

    def nearest(self, x, *, ties="even"):
        """`x` rounded; what is finite and beyond the range becomes its end; infinities and NaN stay."""
        x = np.asarray(x, np.float64)
        inside = np.clip(np.where(np.isfinite(x), x, 0), -self.largest, self.largest)
        i = np.clip(np.searchsorted(self.values, inside, side="right") - 1, 0, len(self.values) - 2)
        low, high = self.values[i], self.values[i + 1]
        to_high, to_low = high - inside, inside - low
        up = to_high < to_low
        tie = to_high == to_low
        up |= tie & (True if ties == "up" else self.even[i + 1])
        return np.where(np.isfinite(x), np.where(up, high, low), x)

    def cast(self, x):
        """A float64 as this dtype has it: beyond half a step above the largest value it is infinite."""
        x = np.asarray(x, np.float64)
        step = self.largest - self.values[-2]
        over = np.abs(x) >= self.largest + step / 2
        return np.where(over & np.isfinite(x), np.copysign(np.inf, x), self.nearest(x))


@functools.cache
def keeps_subnormals():
    """Whether the device adds subnormal numbers: GPUs do, XLA's CPU and TPU programs take them for zero."""
    return np.asarray(jax.jit(lambda x: x + x)(np.float32(2.0**-140))) != 0


def flushed(x):
    """What the device's float32 units make of a number: where they keep no subnormal ones, these count as zero."""
    return x if keeps_subnormals() else np.where(np.abs(x) < 2.0**-126, np.zeros((), x.dtype), x)


def add32(a, b):
    """The float32 sum, in float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = flushed(np.asarray(a, np.float32)) + flushed(np.asarray(b, np.float32))
    return flushed(total.astype(np.float64))


class Kahan:
    """Compensated summation, Zamirai et al., Algorithm 1; `kept` is the grid of the residual, or None for float32."""

    def __init__(self, grid, kept):
        self.grid, self.kept = grid, kept

    def update(self, old, update, residual):
        """The parameter and the residual after the step."""
        y = add32(update, residual)
        total = add32(old, y)
        new = self.grid.nearest(total)
        with np.errstate(invalid="ignore"):
            rest = add32(y, -add32(new, -old))
        rest = np.where(np.abs(total) <= self.grid.largest, rest, 0.0)
        return new, rest if self.kept is None else flushed(self.kept.cast(rest))


class Master:
    """Weights of which the parameters are the rounded ones. `bits`: float32, or 24 with steps 2**-8 of the grid's."""

    def __init__(self, grid, bits):
        self.grid, self.bits = grid, bits

    def update(self, master, update):
        """The parameter and the master weight after the step."""
        total = add32(master, update)
        if self.bits is None:
            return self.grid.nearest(total), total
        kept = np.where(np.isfinite(total), np.clip(total, -self.grid.largest, self.grid.largest), total)
        if self.grid.dtype == np.float16:  # whose finest steps, 2**-16 of 2**-24, are wider than float32's
            kept = np.where(np.abs(kept) < 2.0**-14, np.round(kept * 2.0**40) / 2.0**40, kept)
        if self.bits == 24:
            kept = self._finer(kept)
        return self.grid.nearest(kept, ties="up"), kept

    def _finer(self, x):
        """Rounded to steps of which each of the grid's has 256; ties to even."""
        finite = np.where(np.isfinite(x), x, 0)
        low, high = self.grid.below(finite)
        step = np.where(high > low, (high - low) / 256, 1.0)
        return np.where(np.isfinite(x), low + np.round((finite - low) / step) * step, x)
