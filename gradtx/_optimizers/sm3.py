"""SM3: AdaGrad whose sums are kept for rows and columns only."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain, scope
from gradtx._core.stages import Stage
from gradtx._primitives.covers import covered_second_moment, covered_sum_of_squares
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._storing import stored


def scale_by_sm3(b1: Any = 0.9, b2: Any = 1.0, eps: Any = 1e-8) -> Chain:
    """The direction of `sm3`, without its learning rate.

    Args:
        b1: the decay of the average of the directions, in [0, 1), may be a schedule.
        b2: 1.0 for the sum of the squares; in [0, 1), or a schedule, for their running average.
        eps: added to the second moment inside the root, >= 0.

    Returns:
        `chain(covered_sum_of_squares(), scale_by_rms(0.0, eps), scope(ema_first_moment(b1)))`.
    """
    summed = isinstance(b2, (int, float)) and b2 == 1
    moment = covered_sum_of_squares() if summed else covered_second_moment(b2)
    return chain(moment, scale_by_rms(0.0, eps), scope(ema_first_moment(b1)))


def sm3(learning_rate: Any, momentum: Any = 0.9, *, storage: Any = None) -> Stage:
    r"""SM3: steps by the root of a sum of squares, of which rows and columns keep only the largest.

    $$m_t = b_1 m_{t-1} + (1 - b_1) \frac{g_t}{\sqrt{v_t + 10^{-8}}}, \qquad p_t = p_{t-1} - \eta_t m_t$$

    with $v$ from `covered_sum_of_squares`: for an $m \times n$ matrix it takes $m + n$ numbers.

    Args:
        learning_rate: $\eta$, a number or a schedule.
        momentum: $b_1$ in [0, 1), may be a schedule.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(covered_sum_of_squares(), scale_by_rms(0.0, 1e-8), scope(ema_first_moment(momentum)),
        scale_by_learning_rate(learning_rate))`.

    Source:
        Anil, Gupta, Koren & Singer, arXiv:1901.11150, Algorithm SM3-II, with Optax's momentum.
    """
    return stored(chain(scale_by_sm3(momentum), scale_by_learning_rate(learning_rate)), storage)
