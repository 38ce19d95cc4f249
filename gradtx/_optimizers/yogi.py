"""Yogi."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._primitives.yogi import additive_second_moment
from gradtx._storing import stored


def scale_by_yogi(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-3,
    eps_root: Any = 0.0,
    initial_accumulator_value: Any = 1e-6,
) -> Chain:
    """The direction of `yogi`, without its learning rate; arguments as there.

    Args:
        eps_root: added inside the root, >= 0.
        initial_accumulator_value: where the second moment starts, >= 0. (Optax starts the first one there too.)

    Returns:
        `chain(ema_first_moment(b1), additive_second_moment(b2, initial_accumulator_value), bias_correction(),
        scale_by_rms(eps, eps_root))`.
    """
    return chain(
        ema_first_moment(b1),
        additive_second_moment(b2, initial_accumulator_value),
        bias_correction(),
        scale_by_rms(eps, eps_root),
    )


def yogi(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-3,
    *,
    storage: Any = None,
) -> Stage:
    r"""Adam whose second moment falls slowly where gradients become small.

    $$v_t = v_{t-1} - (1 - b_2) \operatorname{sign}(v_{t-1} - g_t^2) g_t^2, \qquad v_0 = 10^{-6}$$

    Another start: `scale_by_yogi(initial_accumulator_value=...)`.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, >= 0.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(ema_first_moment(b1), additive_second_moment(b2), bias_correction(), scale_by_rms(eps),
        scale_by_learning_rate(learning_rate))`.

    Source:
        Zaheer et al., "Adaptive Methods for Nonconvex Optimization", NeurIPS 2018, Algorithm 2, with Adam's bias
        correction as in Optax.
    """
    return stored(chain(scale_by_yogi(b1, b2, eps), scale_by_learning_rate(learning_rate)), storage)
