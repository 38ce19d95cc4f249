"""Schedule-Free learning: around any optimizer, and with SGD and AdamW."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._optimizers.sgd import sgd
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.iterate_averages import average_iterates
from gradtx._primitives.moments import ema_second_moment
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._primitives.weight_decay import add_decayed_weights, decoupled_weight_decay
from gradtx._storing import stored
from gradtx.schedules import warmup_constant_schedule


def schedule_free(
    base_optimizer: Any,
    learning_rate: Any,
    b1: Any = 0.9,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    """Train an optimizer without a decaying learning rate: its iterates are averaged instead.

    The trained parameters are the points between an iterate and the average where gradients are taken. **Evaluate,
    and save, the average**: `schedule_free_eval_params(state, params)`. It takes the place of momentum, so the base
    optimizer should have none (`adam(learning_rate, b1=0.0)`). Warmup helps; what else the schedule does is weighted
    with the largest rate so far. It belongs at the end of a chain.

    Args:
        base_optimizer: a transformation, gradtx's or Optax's; it is given the trained parameters.
        learning_rate: the learning rate of `base_optimizer`, a number or the same schedule, for the weights of the average.
        b1: how far the trained parameters are on the side of the average, in (0, 1); may be a schedule.
        weight_lr_power: the power of the learning rate with which an iterate weighs, >= 0.
        state_dtype: the dtype in which the iterate is stored; None is float32 (float64 for float64 parameters).
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(base_optimizer, average_iterates(learning_rate, b1, weight_lr_power, state_dtype))`.

    Raises:
        ValueError: a number is out of its range.

    Source:
        Defazio et al., "The Road Less Scheduled", arXiv:2405.15682, equations 3-5.
    """
    return stored(chain(base_optimizer, average_iterates(learning_rate, b1, weight_lr_power, state_dtype)), storage)


def schedule_free_sgd(
    learning_rate: Any = 1.0,
    warmup_steps: int | None = None,
    b1: Any = 0.9,
    weight_decay: Any = None,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    """Schedule-Free with gradient descent.

    Args:
        learning_rate: a number; without `warmup_steps` also a schedule.
        warmup_steps: the steps in which the rate rises from 0 to `learning_rate`; None: it does not.
        b1: as for `schedule_free`.
        weight_decay: L2 regularization, of the trained parameters; None: none.
        weight_lr_power: as for `schedule_free`.
        state_dtype: as for `schedule_free`.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `schedule_free(sgd(learning_rate), learning_rate)`, behind `add_decayed_weights` if there is a decay.

    Source:
        Defazio et al., arXiv:2405.15682, equations 3-5.
    """
    rate = _warmed_up(learning_rate, warmup_steps)
    decay = [] if weight_decay is None else [add_decayed_weights(weight_decay)]
    return stored(schedule_free(chain(*decay, sgd(rate)), rate, b1, weight_lr_power, state_dtype), storage)


def schedule_free_adamw(
    learning_rate: Any = 0.0025,
    warmup_steps: int | None = None,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    r"""Schedule-Free with AdamW, whose first moment the average replaces.

    $$z_{t+1} = z_t - \gamma_t \left( \frac{g_t}{\sqrt{\hat v_t} + \epsilon} + \lambda y_t \right)$$

    Args:
        learning_rate: $\gamma$, a number; without `warmup_steps` also a schedule.
        warmup_steps: the steps in which the rate rises from 0 to `learning_rate`; None: it does not.
        b1: as for `schedule_free`.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: $\epsilon \ge 0$, added outside the root.
        weight_decay: $\lambda \ge 0$, a number or a schedule; of the trained parameters.
        weight_lr_power: as for `schedule_free`.
        state_dtype: as for `schedule_free`.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `schedule_free` around AdamW's chain without a first moment.

    Source:
        Defazio et al., arXiv:2405.15682, Algorithm 1; the weights by the learning rate alone, as in the authors' code.
    """
    rate = _warmed_up(learning_rate, warmup_steps)
    direction = chain(ema_second_moment(b2), bias_correction(), scale_by_rms(eps))
    base = chain(direction, decoupled_weight_decay(weight_decay), scale_by_learning_rate(rate))
    return stored(schedule_free(base, rate, b1, weight_lr_power, state_dtype), storage)


def _warmed_up(learning_rate: Any, warmup_steps: int | None) -> Any:
    return learning_rate if warmup_steps is None else warmup_constant_schedule(0.0, learning_rate, warmup_steps)
