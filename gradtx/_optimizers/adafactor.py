"""Adafactor: the second moment of a matrix from its rows and columns."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain, scope
from gradtx._core.stages import Stage
from gradtx._primitives.factored import factored_second_moment
from gradtx._primitives.layerwise import clip_by_block_rms, scale_by_param_block_rms
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.scaling import scale, scale_by_learning_rate, scale_by_rms
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored


def adafactor(
    learning_rate: Any = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Any = 0.8,
    decay_offset: Any = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Any = 1.0,
    momentum: Any = None,
    dtype_momentum: Any = None,
    weight_decay_rate: Any = None,
    eps: Any = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    r"""Adafactor: RMSProp with row and column means of the squares, clipped, and in proportion to the parameters.

    $$p_t = p_{t-1} - \eta_t \max(\text{RMS}(p_{t-1}), 10^{-3}) \frac{\hat u_t}{\max(1, \text{RMS}(\hat u_t) / d)},
    \qquad \hat u_t = \frac{g_t}{\sqrt{v_t}}$$

    Args:
        learning_rate: $\eta$, a number or a schedule; None is 1.
        min_dim_size_to_factor: the shortest axis of a matrix whose second moment is factored.
        decay_rate: the exponent of the decay $1 - t^{-\text{decay\_rate}}$, >= 0.
        decay_offset: the number of the step before the average starts anew, >= 0.
        multiply_by_parameter_scale: whether steps are in proportion to the parameters.
        clipping_threshold: $d > 0$, the largest root mean square of a leaf's $\hat u$; None does not clip.
        momentum: the decay of an average of the steps, in [0, 1), may be a schedule; None keeps none.
        dtype_momentum: the dtype in which it is stored; None is float32 (float64 for float64 parameters).
        weight_decay_rate: the decay of the weights a step, **not** times the learning rate; >= 0.
        eps: added to the squares, >= 0.
        factored: whether to factor at all.
        weight_decay_mask: which leaves decay; see `decoupled_weight_decay`.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(factored_second_moment(...), scale_by_rms(0.0), clip_by_block_rms(clipping_threshold),
        scale_by_learning_rate(learning_rate, flip_sign=False), scale_by_param_block_rms(),
        scope(ema_first_moment(momentum)), decoupled_weight_decay(weight_decay_rate), scale(-1.0))`, less what is None.

    Source:
        Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv:1804.04235, Algorithms
        4 and 5, with weight decay and the learning rate as in Optax.
    """
    return stored(
        chain(
            factored_second_moment(decay_rate, decay_offset, min_dim_size_to_factor, eps, factored),
            scale_by_rms(0.0),
            *([] if clipping_threshold is None else [clip_by_block_rms(clipping_threshold)]),
            *([] if learning_rate is None else [scale_by_learning_rate(learning_rate, flip_sign=False)]),
            *([scale_by_param_block_rms()] if multiply_by_parameter_scale else []),
            *([] if momentum is None else [scope(ema_first_moment(momentum, dtype_momentum))]),
            *([] if weight_decay_rate is None else [decoupled_weight_decay(weight_decay_rate, weight_decay_mask)]),
            scale(-1.0),
        ),
        storage,
    )


def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Any = 0.8,
    step_offset: Any = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: Any = 1e-30,
    decay_rate_fn: Any = None,
) -> Chain:
    """Divide by the root of a factored second moment, with Optax's name and arguments.

    Args:
        factored: whether to factor at all.
        decay_rate: the exponent of the decay, >= 0.
        step_offset: the number of the step before the average starts anew, >= 0.
        min_dim_size_to_factor: the shortest axis of a matrix that is factored.
        epsilon: added to the squares, >= 0.
        decay_rate_fn: another rule for the decay, `(completed steps - step_offset, decay_rate) -> decay`.

    Returns:
        `chain(factored_second_moment(...), scale_by_rms(0.0))`.
    """
    moment = factored_second_moment(decay_rate, step_offset, min_dim_size_to_factor, epsilon, factored, decay_rate_fn)
    return chain(moment, scale_by_rms(0.0))
