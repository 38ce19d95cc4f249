"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.moments import ema_first_moment, ema_second_moment
from gradtx._primitives.momentum import nesterov as look_ahead
from gradtx._primitives.scaling import scale, scale_by_learning_rate, scale_by_rms
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored


def scale_by_adam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Chain:
    """The direction of `adam`, without its learning rate; arguments as there.

    Returns:
        `chain(ema_first_moment(b1), ema_second_moment(b2), bias_correction(), scale_by_rms(eps))`.
    """
    return chain(
        ema_first_moment(b1, mu_dtype),
        *([look_ahead()] if nesterov else []),
        ema_second_moment(b2),
        bias_correction(),
        scale_by_rms(eps, eps_root),
    )


def adam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    storage: Any = None,
) -> Stage:
    r"""Adam: a moving average of the gradient, divided by the root of a moving average of its square.

    $$p_t = p_{t-1} - \eta_t \frac{\hat m_t}{\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon}$$

    Adam with L2 regularization is `chain(add_decayed_weights(l2), adam(learning_rate))`: the decay enters the moments
    and is divided by the root, which is why `adamw` exists.

    Args:
        learning_rate: $\eta$, a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, >= 0.
        eps_root: added inside the root, >= 0.
        mu_dtype: the dtype in which the first moment is stored; None is float32 (Optax: the parameters').
        nesterov: whether the first moment looks one step ahead.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(ema_first_moment(b1), ema_second_moment(b2), bias_correction(), scale_by_rms(eps),
        scale_by_learning_rate(learning_rate))`.

    Source:
        Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, Algorithm 1.
    """
    direction = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return stored(chain(direction, scale_by_learning_rate(learning_rate)), storage)


def adamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
    schedule: Any = None,
    storage: Any = None,
) -> Stage:
    r"""Adam with decoupled weight decay.

    $$p_t = p_{t-1} - \eta_t \left( \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda p_{t-1} \right)$$

    **The default decay is Optax's 1e-4; PyTorch's is 1e-2.** Both multiply it by the learning rate. With `schedule`
    given, the decay is multiplied by that alone, as in the paper:

    $$p_t = p_{t-1} - \eta_t \left( \alpha \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda p_{t-1} \right)$$

    where `learning_rate` is $\alpha$ and `schedule` is the multiplier $\eta_t$ (1.0 for a constant one); a good
    $\lambda$ is then smaller by the factor $\alpha$.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, >= 0.
        eps_root: added inside the root, >= 0.
        mu_dtype: the dtype in which the first moment is stored; None is float32 (Optax: the parameters').
        weight_decay: $\lambda \ge 0$, a number or a schedule.
        mask: which leaves decay: a tree of bools, a function `params -> tree of bools`, or a predicate
            `(path, leaf) -> bool`. None: all.
        nesterov: whether the first moment looks one step ahead.
        schedule: the multiplier $\eta_t$ of the fully decoupled form; None: decay times learning rate.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        Adam's chain with `decoupled_weight_decay(weight_decay, mask)` before the learning rate.

    Source:
        Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, Algorithm 2.
    """
    direction = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    decay = decoupled_weight_decay(weight_decay, mask)
    if schedule is None:
        return stored(chain(direction, decay, scale_by_learning_rate(learning_rate)), storage)
    return stored(chain(direction, scale(learning_rate), decay, scale_by_learning_rate(schedule)), storage)
