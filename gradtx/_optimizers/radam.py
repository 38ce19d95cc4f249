"""RAdam."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.momentum import nesterov as look_ahead
from gradtx._primitives.rectification import ema_second_moment_of_length, scale_by_rectified_rms
from gradtx._primitives.scaling import scale_by_learning_rate
from gradtx._storing import stored


def scale_by_radam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    threshold: Any = 5.0,
    *,
    nesterov: bool = False,
) -> Chain:
    """The direction of `radam`, without its learning rate; arguments as there.

    Returns:
        `chain(ema_first_moment(b1), ema_second_moment_of_length(b2), bias_correction(),
        scale_by_rectified_rms(eps, eps_root, threshold))`.
    """
    return chain(
        ema_first_moment(b1),
        *([look_ahead()] if nesterov else []),
        ema_second_moment_of_length(b2),
        bias_correction(),
        scale_by_rectified_rms(eps, eps_root, threshold),
    )


def radam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    threshold: Any = 5.0,
    *,
    nesterov: bool = False,
    storage: Any = None,
) -> Stage:
    r"""Adam that starts as SGD with momentum, and whose step sizes grow as the second moment becomes reliable.

    $$p_t = p_{t-1} - \eta_t \begin{cases} r_t \hat m_t / (\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon) &
    \rho_t \ge \text{threshold} \\ \hat m_t & \text{otherwise} \end{cases}$$

    with $\rho_t$ and $r_t$ as `ema_second_moment_of_length` and `scale_by_rectified_rms` define them.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule; up to 0.6 nothing is ever divided.
        eps: added outside the root, >= 0.
        eps_root: added inside the root, >= 0.
        threshold: the length $\rho_t$ of the average from which on the second moment is used, >= 4.
        nesterov: whether the first moment looks one step ahead.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(ema_first_moment(b1), ema_second_moment_of_length(b2), bias_correction(),
        scale_by_rectified_rms(eps, eps_root, threshold), scale_by_learning_rate(learning_rate))`.

    Source:
        Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv:1908.03265, Algorithm 2.
    """
    direction = scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov)
    return stored(chain(direction, scale_by_learning_rate(learning_rate)), storage)
