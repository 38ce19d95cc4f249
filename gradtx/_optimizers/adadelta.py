"""AdaDelta."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.deltas import scale_by_delta_rms
from gradtx._primitives.moments import ema_second_moment
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._primitives.weight_decay import add_decayed_weights
from gradtx._storing import stored


def scale_by_adadelta(rho: Any = 0.9, eps: Any = 1e-6) -> Chain:
    """The direction of `adadelta`, without weight decay and learning rate; arguments as there.

    Returns:
        `chain(ema_second_moment(rho), scale_by_rms(eps=0, eps_root=eps), scale_by_delta_rms(rho, eps))`.
    """
    return chain(ema_second_moment(rho), scale_by_rms(eps=0.0, eps_root=eps), scale_by_delta_rms(rho, eps))


def adadelta(
    learning_rate: Any = None,
    rho: Any = 0.9,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    """AdaDelta: the gradient over its root mean square, times the root mean square of the updates so far.

    Args:
        learning_rate: a number or a schedule; None is the paper's 1.0.
        rho: the decay of both averages, in [0, 1), may be a schedule.
        eps: added inside both roots, >= 0; the size of the first steps.
        weight_decay: added to the gradient (L2), >= 0, a number or a schedule.
        weight_decay_mask: which leaves decay; see `add_decayed_weights`.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(add_decayed_weights(...), ema_second_moment(rho), scale_by_rms(eps=0, eps_root=eps),
        scale_by_delta_rms(rho, eps), scale_by_learning_rate(learning_rate))`.

    Source:
        Zeiler, arXiv:1212.5701, Algorithm 1.
    """
    return stored(
        chain(
            add_decayed_weights(weight_decay, weight_decay_mask),
            scale_by_adadelta(rho, eps),
            scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
        ),
        storage,
    )
