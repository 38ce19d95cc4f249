"""AMSGrad."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.moments import ema_first_moment, ema_second_moment
from gradtx._primitives.running_max import running_max
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms


def amsgrad(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
) -> Chain:
    r"""Adam that divides by the largest second moment so far, corrected for its bias (as Optax takes it).

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, >= 0.
        eps_root: added inside the root, >= 0.
        mu_dtype: the dtype in which the first moment is stored; None is float32.

    Returns:
        Adam's chain with `running_max()` behind the bias correction.

    Source:
        Reddi, Kale & Kumar, "On the Convergence of Adam and Beyond", ICLR 2018, Algorithm 2.
    """
    return chain(
        ema_first_moment(b1, mu_dtype),
        ema_second_moment(b2),
        bias_correction(),
        running_max(),
        scale_by_rms(eps, eps_root),
        scale_by_learning_rate(learning_rate),
    )
