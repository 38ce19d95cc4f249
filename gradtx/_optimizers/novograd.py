"""NovoGrad: gradients divided by a running average of their layer's norm, then momentum."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.layer_moments import ema_squared_norm
from gradtx._primitives.momentum import trace
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._primitives.weight_decay import add_decayed_weights
from gradtx._storing import stored


def scale_by_novograd(
    b1: Any = 0.9,
    b2: Any = 0.25,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    mu_dtype: Any = None,
) -> Chain:
    """The direction of `novograd`, without its learning rate; arguments as there.

    Returns:
        `chain(ema_squared_norm(b2), scale_by_rms(eps, eps_root), add_decayed_weights(weight_decay), trace(b1))`.
    """
    return chain(
        ema_squared_norm(b2), scale_by_rms(eps, eps_root), add_decayed_weights(weight_decay), trace(b1, mu_dtype)
    )


def novograd(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.25,
    eps: Any = 1e-6,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    *,
    storage: Any = None,
) -> Stage:
    r"""NovoGrad: momentum of gradients that are divided, leaf by leaf, by the root of their average squared norm.

    $$m_t = b_1 m_{t-1} + \left( \frac{g_t}{\sqrt{v_t + \epsilon_{\text{root}}} + \epsilon} + \lambda p_{t-1} \right),
    \qquad p_t = p_{t-1} - \eta_t m_t$$

    Args:
        learning_rate: $\eta$, a number or a schedule.
        b1: the decay of the momentum, in [0, 1), may be a schedule.
        b2: the decay of the squared norm, in [0, 1), may be a schedule.
        eps: $\epsilon \ge 0$, added outside the root.
        eps_root: $\epsilon_{\text{root}} \ge 0$, added inside the root.
        weight_decay: $\lambda \ge 0$; it enters the momentum.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(ema_squared_norm(b2), scale_by_rms(eps, eps_root), add_decayed_weights(weight_decay), trace(b1),
        scale_by_learning_rate(learning_rate))`.

    Source:
        Ginsburg et al., arXiv:1905.11286, Algorithm 1.
    """
    return stored(
        chain(scale_by_novograd(b1, b2, eps, eps_root, weight_decay), scale_by_learning_rate(learning_rate)), storage
    )
