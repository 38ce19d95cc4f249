"""Optimistic gradient descent and Adam, for games."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._optimizers.adam import adam
from gradtx._primitives.optimism import scale_by_optimistic_gradient
from gradtx._primitives.scaling import scale_by_learning_rate
from gradtx._storing import stored


def optimistic_gradient_descent(learning_rate: Any, alpha: Any = 1.0, beta: Any = 1.0, *, storage: Any = None) -> Stage:
    """Optimistic gradient descent: the step counts the last change of the gradient once more.

    Args:
        learning_rate: a number or a schedule.
        alpha: the weight of the gradient, a number or a schedule.
        beta: the weight of its change, a number or a schedule.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))`.

    Source:
        Mokhtari, Ozdaglar & Pattathil, arXiv:1901.08511, equation 7.
    """
    return stored(chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate)), storage)


def optimistic_adam_v2(
    learning_rate: Any,
    *,
    alpha: Any = 1.0,
    beta: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    nesterov: bool = True,
    storage: Any = None,
) -> Stage:
    """Adam whose step counts its own last change once more; with the arguments of Optax's function of this name.

    Args:
        learning_rate: a number or a schedule.
        alpha: the weight of Adam's direction, a number or a schedule.
        beta: the weight of its change, a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, >= 0.
        eps_root: added inside the root, >= 0.
        mu_dtype: the dtype in which the first moment is stored; None is float32.
        nesterov: whether the first moment looks one step ahead.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        Adam's chain with `scale_by_optimistic_gradient(alpha, beta)` before the learning rate.

    Source:
        Daskalakis et al., "Training GANs with Optimism", arXiv:1711.00141, Algorithm 1.
    """
    *direction, rate = adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov).stages
    return stored(chain(*direction, scale_by_optimistic_gradient(alpha, beta), rate), storage)
