"""AdEMAMix."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.moments import ema_first_moment, ema_second_moment
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._primitives.slow_average import add_slow_average
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored


def scale_by_ademamix(
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 6.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
) -> Chain:
    """The direction of `ademamix`, without decay and learning rate; arguments as there, but for the default of `alpha`.

    Returns:
        `chain(ema_first_moment(b1, mu_dtype), ema_second_moment(b2), add_slow_average(b3, alpha, mu_dtype),
        bias_correction(), scale_by_rms(eps, eps_root))`.
    """
    return chain(
        ema_first_moment(b1, mu_dtype),
        ema_second_moment(b2),
        add_slow_average(b3, alpha, mu_dtype),
        bias_correction(),
        scale_by_rms(eps, eps_root),
    )


def ademamix(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 5.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    r"""AdamW with two averages of the gradient, a fast one and a slow one.

    $$p_t = p_{t-1} - \eta_t \left( \frac{\hat m_t + \alpha s_t}{\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon} +
    \lambda p_{t-1} \right)$$

    The paper warms `alpha` and `b3` up by schedules, without which a large `b3` may diverge early on.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the fast average $m$, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        b3: the decay of the slow average $s$, in [0, 1), may be a schedule.
        alpha: the weight of the slow average, a number or a schedule.
        eps: added outside the root, >= 0.
        eps_root: added inside the root, >= 0.
        mu_dtype: the dtype in which both averages are stored; None is float32.
        weight_decay: $\lambda \ge 0$, a number or a schedule; multiplied by the learning rate.
        mask: which leaves decay, as for `adamw`. None: all.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        AdamW's chain with `add_slow_average(b3, alpha)` behind the moments.

    Source:
        Pagliardini, Ablin & Grangier, arXiv:2409.03137, Algorithm 1.
    """
    return stored(
        chain(
            scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
            decoupled_weight_decay(weight_decay, mask),
            scale_by_learning_rate(learning_rate),
        ),
        storage,
    )
