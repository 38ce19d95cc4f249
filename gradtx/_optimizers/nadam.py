"""Adam whose first moment looks one step ahead."""

from __future__ import annotations

from typing import Any

from gradtx._core.stages import Stage
from gradtx._optimizers.adam import adam, adamw
from gradtx._storing import stored


def nadam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    storage: Any = None,
) -> Stage:
    r"""Adam with Nesterov momentum: `adam(..., nesterov=True)`, whose arguments these are.

    Returns:
        Adam's chain with `nesterov()` behind the first moment.

    Source:
        Dozat, "Incorporating Nesterov Momentum into Adam" (2016), Algorithm 2, with a constant decay.
    """
    return stored(adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov), storage)


def nadamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = True,
    storage: Any = None,
) -> Stage:
    r"""AdamW with Nesterov momentum: `adamw(..., nesterov=True)`, whose arguments these are.

    Returns:
        AdamW's chain with `nesterov()` behind the first moment.

    Source:
        Dozat (2016), Algorithm 2; Loshchilov & Hutter, arXiv:1711.05101, Algorithm 2 for the decay.
    """
    return stored(adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov), storage)
