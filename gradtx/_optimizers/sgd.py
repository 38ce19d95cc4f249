"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.momentum import nesterov as look_ahead
from gradtx._primitives.momentum import trace
from gradtx._primitives.scaling import scale_by_learning_rate
from gradtx._storing import stored


def sgd(
    learning_rate: Any,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    ema: bool = False,
    storage: Any = None,
) -> Stage:
    """Stochastic gradient descent.

    Args:
        learning_rate: a number or a schedule.
        momentum: the decay of the momentum, in [0, 1), may be a schedule; None: no momentum.
        nesterov: whether to look one step ahead (needs `momentum`).
        accumulator_dtype: the dtype in which the momentum is stored; None is float32.
        ema: momentum as an average, `v = b*v + (1-b)*g`, instead of the heavy ball's sum, `v = b*v + g`: the
            learning rate then keeps its meaning when the momentum changes. (Ours; Optax has the sum only.)
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(trace(momentum), nesterov(), scale_by_learning_rate(learning_rate))`, as far as asked for.

    Raises:
        ValueError: `nesterov` or `ema` without `momentum`, which would do nothing.
    """
    if momentum is None:
        if nesterov or ema:
            raise ValueError("sgd: nesterov and ema need a momentum, and it is None")
        return stored(chain(scale_by_learning_rate(learning_rate)), storage)
    average = ema_first_moment if ema else trace
    stages = [average(momentum, accumulator_dtype), *([look_ahead()] if nesterov else [])]
    return stored(chain(*stages, scale_by_learning_rate(learning_rate)), storage)
