"""Optimistic gradient descent, for games."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._primitives.optimism import scale_by_optimistic_gradient
from gradtx._primitives.scaling import scale_by_learning_rate


def optimistic_gradient_descent(learning_rate: Any, alpha: Any = 1.0, beta: Any = 1.0) -> Chain:
    """Optimistic gradient descent: the step counts the last change of the gradient once more.

    Args:
        learning_rate: a number or a schedule.
        alpha: the weight of the gradient, a number or a schedule.
        beta: the weight of its change, a number or a schedule.

    Returns:
        `chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))`.

    Source:
        Mokhtari, Ozdaglar & Pattathil, arXiv:1901.08511, equation 7.
    """
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))
