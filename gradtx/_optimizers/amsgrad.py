"""AMSGrad."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain, scope
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.moments import ema_first_moment, ema_second_moment
from gradtx._primitives.running_max import running_max
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._storing import stored


def scale_by_amsgrad(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> Chain:
    """The direction of `amsgrad`, without its learning rate; arguments as there.

    Returns:
        `chain(ema_first_moment(b1), ema_second_moment(b2), bias_correction(), running_max(), scale_by_rms(eps))`, with
        the correction where it is asked for.
    """
    first, second = ema_first_moment(b1, mu_dtype), ema_second_moment(b2)
    moments = {
        (True, True): [first, second, bias_correction()],
        (True, False): [first, bias_correction(), second],
        (False, True): [second, bias_correction(), scope(first)],
        (False, False): [first, second],
    }
    return chain(
        *moments[bool(bias_correction_mu), bool(bias_correction_nu)],
        running_max(),
        scale_by_rms(eps, eps_root),
    )


def amsgrad(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    storage: Any = None,
) -> Stage:
    r"""Adam that divides by the largest second moment so far, corrected for its bias (as Optax takes it).

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, >= 0.
        eps_root: added inside the root, >= 0.
        mu_dtype: the dtype in which the first moment is stored; None is float32.
        bias_correction_mu: whether the first moment is corrected for its bias.
        bias_correction_nu: whether the second one is, before its maximum is taken. (The paper corrects neither;
            PyTorch corrects both, the second behind the maximum: `running_max()` before `bias_correction()`.)
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        Adam's chain with `running_max()` behind the bias correction.

    Source:
        Reddi, Kale & Kumar, "On the Convergence of Adam and Beyond", ICLR 2018, Algorithm 2.
    """
    direction = scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu)
    return stored(chain(direction, scale_by_learning_rate(learning_rate)), storage)
