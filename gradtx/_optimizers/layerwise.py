"""Optimizers that look at the norm of a layer: LARS, LAMB, Fromage."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.layerwise import scale_by_trust_ratio, shrinking_step
from gradtx._primitives.moments import ema_first_moment, ema_second_moment
from gradtx._primitives.momentum import nesterov as look_ahead
from gradtx._primitives.momentum import trace
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._primitives.weight_decay import add_decayed_weights, decoupled_weight_decay
from gradtx._storing import stored


def lars(
    learning_rate: Any,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: Any = 0.001,
    eps: Any = 0.0,
    trust_ratio_mask: Any = True,
    momentum: Any = 0.9,
    nesterov: bool = False,
    *,
    storage: Any = None,
) -> Stage:
    """LARS: momentum on gradients that have, leaf by leaf, a norm in proportion to the parameters'.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: added to the gradient (L2), >= 0, a number or a schedule.
        weight_decay_mask: which leaves decay; see `add_decayed_weights`.
        trust_coefficient: the norm of a step over the norm of the parameters.
        eps: added to the norm of the gradient, >= 0.
        trust_ratio_mask: which leaves are scaled, in the same forms.
        momentum: the decay of the heavy ball, in [0, 1), may be a schedule.
        nesterov: whether it looks one step ahead.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(add_decayed_weights(...), scale_by_trust_ratio(...), scale_by_learning_rate(learning_rate),
        trace(momentum))`, with `nesterov()` where asked for.

    Source:
        You, Gitman & Ginsburg, arXiv:1708.03888, Algorithm 1.
    """
    return stored(
        chain(
            add_decayed_weights(weight_decay, weight_decay_mask),
            scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps, mask=trust_ratio_mask),
            scale_by_learning_rate(learning_rate),
            trace(momentum),
            *([look_ahead()] if nesterov else []),
        ),
        storage,
    )


def lamb(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    """LAMB: AdamW whose step has, leaf by leaf, the norm of the parameters times the learning rate.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, >= 0.
        eps_root: added inside the root, >= 0.
        weight_decay: decoupled, >= 0, a number or a schedule.
        mask: which leaves decay; see `decoupled_weight_decay`.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        AdamW's chain with `scale_by_trust_ratio()` before the learning rate.

    Source:
        You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", arXiv:1904.00962,
        Algorithm 2, with the identity for its function phi.
    """
    return stored(
        chain(
            ema_first_moment(b1),
            ema_second_moment(b2),
            bias_correction(),
            scale_by_rms(eps, eps_root),
            decoupled_weight_decay(weight_decay, mask),
            scale_by_trust_ratio(),
            scale_by_learning_rate(learning_rate),
        ),
        storage,
    )


def fromage(learning_rate: Any, min_norm: Any = 1e-6, *, storage: Any = None) -> Stage:
    """Fromage: steps of the parameters' norm, leaf by leaf, without letting that norm grow.

    Args:
        learning_rate: the size of a step relative to the parameters, a number or a schedule.
        min_norm: norms count as at least this much, >= 0.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(scale_by_trust_ratio(min_norm), shrinking_step(learning_rate))`.

    Source:
        Bernstein et al., arXiv:2002.03432, Algorithm 1.
    """
    return stored(chain(scale_by_trust_ratio(min_norm), shrinking_step(learning_rate)), storage)
