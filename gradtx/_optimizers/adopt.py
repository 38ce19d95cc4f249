"""ADOPT."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain, scope
from gradtx._core.stages import Stage
from gradtx._primitives.clipping import clip
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.momentum import nesterov as look_ahead
from gradtx._primitives.previous import scale_by_previous_rms
from gradtx._primitives.scaling import scale_by_learning_rate
from gradtx._storing import stored
from gradtx.schedules import power_schedule

FOURTH_ROOT = power_schedule(0.25)


def scale_by_adopt(
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Any = FOURTH_ROOT,
) -> Chain:
    """The direction of `adopt`, without its learning rate; arguments as there.

    Returns:
        `chain(scale_by_previous_rms(b2, eps), clip(clip_value_fn), scope(ema_first_moment(b1, mu_dtype)))`.
    """
    return chain(
        scale_by_previous_rms(b2, eps),
        *([clip(clip_value_fn)] if use_clipping else []),
        scope(ema_first_moment(b1, mu_dtype), *([look_ahead()] if nesterov else [])),
    )


def adopt(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Any = FOURTH_ROOT,
    storage: Any = None,
) -> Stage:
    r"""Adam with the second moment of the step before, and the momentum behind the division instead of in front.

    $$x_t = \text{clip}\left(\frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)}, c_t\right), \quad m_t = b_1 m_{t-1} + (1 - b_1) x_t,
    \quad p_t = p_{t-1} - \eta_t m_t$$

    The first step only starts the second moment, with $v_1 = |g_1|^2$, and does not move.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the momentum, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: the smallest denominator, >= 0.
        mu_dtype: the dtype in which the momentum is stored; None is float32.
        nesterov: whether the momentum looks one step ahead.
        use_clipping: whether the quotients are clipped, element by element.
        clip_value_fn: a number or a schedule: the limit $c_t$, by default the fourth root of the number of completed
            steps.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(scale_by_previous_rms(b2, eps), clip(clip_value_fn), scope(ema_first_moment(b1)),
        scale_by_learning_rate(learning_rate))`.

    Raises:
        TypeError: a leaf is complex and `use_clipping` is set: complex numbers have no elementwise order.

    Source:
        Taniguchi et al., arXiv:2411.02853, Algorithm 2, with the clipping of the authors' later version.
    """
    clipping = {"use_clipping": use_clipping, "clip_value_fn": clip_value_fn}
    return stored(
        chain(
            scale_by_adopt(b1, b2, eps, mu_dtype, nesterov=nesterov, **clipping),
            scale_by_learning_rate(learning_rate),
        ),
        storage,
    )
