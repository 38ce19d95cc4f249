"""StableAdamW."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.leaf_clipping import clip_by_surprise
from gradtx._primitives.moments import ema_first_moment, ema_second_moment
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored


def stable_adamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    r"""AdamW whose learning rate is smaller, leaf by leaf, where the gradient is large beside its second moment.

    $$\eta \leftarrow \eta_t / \max(1, \text{RMS}_t), \qquad \text{RMS}_t = \sqrt{\text{mean}(|g_t|^2 / \max(\hat v_t,
    \epsilon^2))}$$

    The decay is multiplied by the same learning rate. Defaults are those of `adamw`.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, and the smallest root in the mean, >= 0.
        eps_root: added inside the root, >= 0.
        mu_dtype: the dtype in which the first moment is stored; None is float32.
        weight_decay: $\lambda \ge 0$, a number or a schedule.
        mask: which leaves decay, as for `adamw`. None: all.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        AdamW's chain with `clip_by_surprise(eps)` before the learning rate.

    Source:
        Wortsman et al., arXiv:2304.13013, Algorithm 2.
    """
    return stored(
        chain(
            ema_first_moment(b1, mu_dtype),
            ema_second_moment(b2),
            bias_correction(),
            scale_by_rms(eps, eps_root),
            decoupled_weight_decay(weight_decay, mask),
            clip_by_surprise(eps),
            scale_by_learning_rate(learning_rate),
        ),
        storage,
    )
