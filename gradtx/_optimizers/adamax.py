"""AdaMax and AdaMaxW."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.infinity_norm import scale_by_infinity_norm
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.scaling import scale_by_learning_rate
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored


def scale_by_adamax(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> Chain:
    """The direction of `adamax`, without its learning rate; arguments as there.

    Returns:
        `chain(ema_first_moment(b1), bias_correction(), scale_by_infinity_norm(b2, eps))`.
    """
    return chain(ema_first_moment(b1), bias_correction(), scale_by_infinity_norm(b2, eps))


def adamax(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    storage: Any = None,
) -> Stage:
    """Adam with the decaying maximum of the gradient in place of its root mean square.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the maximum, in [0, 1), may be a schedule.
        eps: added to the size of each gradient, >= 0.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(ema_first_moment(b1), bias_correction(), scale_by_infinity_norm(b2, eps),
        scale_by_learning_rate(learning_rate))`.

    Source:
        Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, Algorithm 2.
    """
    return stored(chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate)), storage)


def adamaxw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    """AdaMax with decoupled weight decay.

    Args:
        learning_rate: a number or a schedule; it multiplies the decay too.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the maximum, in [0, 1), may be a schedule.
        eps: added to the size of each gradient, >= 0.
        weight_decay: >= 0, a number or a schedule.
        mask: which leaves decay; see `adamw`.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        AdaMax's chain with `decoupled_weight_decay(weight_decay, mask)` before the learning rate.

    Source:
        Kingma & Ba, arXiv:1412.6980, Algorithm 2; Loshchilov & Hutter, arXiv:1711.05101, for the decay.
    """
    decay = decoupled_weight_decay(weight_decay, mask)
    return stored(chain(scale_by_adamax(b1, b2, eps), decay, scale_by_learning_rate(learning_rate)), storage)
