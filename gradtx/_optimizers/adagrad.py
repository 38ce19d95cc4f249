"""AdaGrad."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.moments import sum_of_squares
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._storing import stored


def scale_by_rss(initial_accumulator_value: Any = 0.1, eps: Any = 1e-7) -> Chain:
    """The direction of `adagrad`, divided by the root of the sum of squares; arguments as there.

    Returns:
        `chain(sum_of_squares(initial_accumulator_value), scale_by_rms(eps=0, eps_root=eps))`.
    """
    return chain(sum_of_squares(initial_accumulator_value), scale_by_rms(eps=0.0, eps_root=eps))


def adagrad(learning_rate: Any, initial_accumulator_value: Any = 0.1, eps: Any = 1e-7, *, storage: Any = None) -> Stage:
    """AdaGrad: every parameter's learning rate falls with the sum of its squared gradients.

    Args:
        learning_rate: a number or a schedule.
        initial_accumulator_value: where the sum starts, >= 0.
        eps: added to the sum, inside the root, as in Optax (PyTorch adds it outside).
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(sum_of_squares(...), scale_by_rms(eps=0, eps_root=eps), scale_by_learning_rate(...))`.

    Source:
        Duchi, Hazan & Singer, "Adaptive Subgradient Methods", JMLR 12 (2011), Figure 1.
    """
    return stored(chain(scale_by_rss(initial_accumulator_value, eps), scale_by_learning_rate(learning_rate)), storage)
