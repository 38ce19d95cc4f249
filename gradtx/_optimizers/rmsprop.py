"""RMSProp."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction as correct_bias
from gradtx._primitives.moments import ema_centered_moment, ema_second_moment
from gradtx._primitives.momentum import nesterov as look_ahead
from gradtx._primitives.momentum import trace
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._storing import stored


def rmsprop(
    learning_rate: Any,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Any = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    storage: Any = None,
) -> Stage:
    """RMSProp: divide the gradient by the root of a moving average of its square.

    Args:
        learning_rate: a number or a schedule.
        decay: of the moving average, in [0, 1), may be a schedule.
        eps: a small number >= 0 that keeps the denominator from vanishing.
        initial_scale: where the average starts, >= 0 (PyTorch: 0; TensorFlow: 1).
        eps_in_sqrt: `sqrt(v + eps)` (Optax's default) or `sqrt(v) + eps` (PyTorch's form).
        centered: divide by the root of the variance instead of the second moment.
        momentum: the decay of a heavy ball behind the learning rate, in [0, 1); None: no momentum.
        nesterov: whether that momentum looks ahead (needs `momentum`).
        bias_correction: whether to remove the averages' bias towards their start.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(ema_second_moment(decay), scale_by_rms(...), scale_by_learning_rate(...))`, with what else was asked for.

    Raises:
        ValueError: `nesterov` without `momentum`, which would do nothing.

    Source:
        Hinton, Srivastava & Swersky, "Neural Networks for Machine Learning", lecture 6e (2012); centered: Graves,
        arXiv:1308.0850, equations 38-45.
    """
    if nesterov and momentum is None:
        raise ValueError("rmsprop: nesterov needs a momentum, and it is None")
    estimator = ema_centered_moment if centered else ema_second_moment
    return stored(
        chain(
            estimator(decay, initial_scale),
            *([correct_bias()] if bias_correction else []),
            scale_by_rms(eps=0.0, eps_root=eps) if eps_in_sqrt else scale_by_rms(eps),
            scale_by_learning_rate(learning_rate),
            *([trace(momentum)] if momentum is not None else []),
            *([look_ahead()] if nesterov else []),
        ),
        storage,
    )


def scale_by_stddev(
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Chain:
    """The direction of `rmsprop(centered=True)`, without its learning rate; arguments as there.

    Returns:
        `chain(ema_centered_moment(decay), scale_by_rms(...))`.
    """
    return chain(
        ema_centered_moment(decay, initial_scale),
        *([correct_bias()] if bias_correction else []),
        scale_by_rms(eps=0.0, eps_root=eps) if eps_in_sqrt else scale_by_rms(eps),
    )
