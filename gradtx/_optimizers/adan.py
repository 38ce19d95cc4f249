"""Adan."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.moments import ema_first_moment, ema_second_moment
from gradtx._primitives.previous import nesterov_difference
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored


def scale_by_adan(
    b1: Any = 0.98,
    b2: Any = 0.92,
    b3: Any = 0.99,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
) -> Chain:
    """The direction of `adan`, without decay and learning rate; arguments as there, but for the default of `eps_root`.

    Returns:
        `chain(ema_first_moment(b1), nesterov_difference(b2), ema_second_moment(b3), bias_correction(),
        scale_by_rms(eps, eps_root))`.
    """
    return chain(
        ema_first_moment(b1),
        nesterov_difference(b2),
        ema_second_moment(b3),
        bias_correction(),
        scale_by_rms(eps, eps_root),
    )


def adan(
    learning_rate: Any,
    b1: Any = 0.98,
    b2: Any = 0.92,
    b3: Any = 0.99,
    eps: Any = 1e-8,
    eps_root: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    r"""Adam with Nesterov's momentum estimated from the changes of the gradient.

    $$p_t = p_{t-1} - \eta_t \left( \frac{\hat m_t + b_2 \hat v_t}{\sqrt{\hat n_t + \epsilon_{\text{root}}} + \epsilon} +
    \lambda p_{t-1} \right)$$

    with averages $m$ of $g_t$, $v$ of $g_t - g_{t-1}$ and $n$ of $|g_t + b_2 (g_t - g_{t-1})|^2$. The factor is $b_2$, as in
    the paper (whose $\beta_2$ is $1 - b_2$) and its authors' code. **Optax 0.2.8 has $1 - b_2$ there**, 0.08 for the default:
    its changes of the gradient hardly count.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the average of gradients, in [0, 1), may be a schedule.
        b2: the decay of the average of their changes, in [0, 1), may be a schedule.
        b3: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, >= 0.
        eps_root: added inside the root, >= 0.
        weight_decay: $\lambda \ge 0$, a number or a schedule; multiplied by the learning rate and added (the paper divides by
            $1 + \eta \lambda$ instead).
        mask: which leaves decay, as for `adamw`. None: all.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        AdamW's chain with `nesterov_difference(b2)` behind the first moment.

    Source:
        Xie et al., arXiv:2208.06677, Algorithm 1.
    """
    return stored(
        chain(
            scale_by_adan(b1, b2, b3, eps, eps_root),
            decoupled_weight_decay(weight_decay, mask),
            scale_by_learning_rate(learning_rate),
        ),
        storage,
    )
