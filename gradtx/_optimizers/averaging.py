"""The exponentially weighted average of a series or a tree."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Scope, scope
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.moments import ema_first_moment


def ema(decay: Any, debias: bool = True, accumulator_dtype: Any = None) -> Scope:
    """An exponential moving average of what flows in.

    Useful outside an optimizer too: `average, state = tx.update(loss, state)` smooths a series,
    `tx.update(params, state)` averages parameters for evaluation.

    Args:
        decay: in [0, 1); may be a schedule.
        debias: whether to divide by the weight gathered so far, so that the average of a constant is that constant
            from the first step on.
        accumulator_dtype: the dtype in which the average is stored; None is float32 (float64 for float64 leaves).

    Returns:
        `scope(ema_first_moment(decay), bias_correction())`, or without the latter.
    """
    average = ema_first_moment(decay, accumulator_dtype)
    return scope(average, bias_correction()) if debias else scope(average)
