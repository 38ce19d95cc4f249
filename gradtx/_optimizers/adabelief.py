"""AdaBelief."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.belief import ema_belief_moment
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.momentum import nesterov as look_ahead
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._storing import stored


def scale_by_belief(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    *,
    nesterov: bool = False,
) -> Chain:
    """The direction of `adabelief`, without its learning rate; arguments as there.

    Returns:
        `chain(ema_first_moment(b1), ema_belief_moment(b2, eps_root), bias_correction(), scale_by_rms(eps))`.
    """
    return chain(
        ema_first_moment(b1),
        ema_belief_moment(b2, eps_root),
        *([look_ahead()] if nesterov else []),
        bias_correction(),
        scale_by_rms(eps),
    )


def adabelief(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    *,
    nesterov: bool = False,
    storage: Any = None,
) -> Stage:
    r"""Adam whose second moment is that of the gradient's distance from its average.

    $$p_t = p_{t-1} - \eta_t \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}, \qquad
    v_t = b_2 v_{t-1} + (1 - b_2) (g_t - m_t)^2 + \epsilon_{\text{root}}$$

    Where the gradient is constant the distance vanishes, and steps grow to $\sqrt{(1 - b_2) / \epsilon_{\text{root}}}$
    times the gradient: 3e6 with the defaults.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, >= 0.
        eps_root: added to the second moment at every step, >= 0.
        nesterov: whether the first moment looks one step ahead.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(ema_first_moment(b1), ema_belief_moment(b2, eps_root), bias_correction(), scale_by_rms(eps),
        scale_by_learning_rate(learning_rate))`.

    Source:
        Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients", arXiv:2010.07468,
        Algorithm 2.
    """
    direction = scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov)
    return stored(chain(direction, scale_by_learning_rate(learning_rate)), storage)
