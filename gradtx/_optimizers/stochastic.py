"""Gradient descent for noisy losses: with noise of its own, and with Polyak's step size."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._optimizers.sgd import sgd
from gradtx._primitives.noise import add_noise
from gradtx._primitives.polyak import scale_by_polyak
from gradtx._primitives.scaling import scale_by_learning_rate
from gradtx._storing import stored


def noisy_sgd(
    learning_rate: Any, eta: Any = 0.01, gamma: Any = 0.55, key: Any = None, *, seed: Any = None, storage: Any = None
) -> Stage:
    r"""Gradient descent with Gaussian noise of a falling variance on the gradient.

    $$p_t = p_{t-1} - \eta_t (g_t + n_t), \qquad n_t \sim \mathcal{N}(0, \text{eta} / t^\gamma)$$

    Args:
        learning_rate: $\eta_t$, a number or a schedule.
        eta: the variance at the first step, >= 0, a number or a schedule.
        gamma: the exponent with which it falls.
        key: an integer, or a key of `jax.random`; None is 0.
        seed: another name for `key`.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(add_noise(eta, gamma, key), scale_by_learning_rate(learning_rate))`.

    Source:
        Neelakantan et al., arXiv:1511.06807, equation 1.
    """
    return stored(chain(add_noise(eta, gamma, key, seed), scale_by_learning_rate(learning_rate)), storage)


def polyak_sgd(
    max_learning_rate: Any = 1.0,
    scaling: Any = 1.0,
    f_min: Any = 0.0,
    eps: Any = 0.0,
    variant: str = "sps",
    *,
    storage: Any = None,
) -> Stage:
    r"""Gradient descent with Polyak's step size, for losses whose least value is known.

    $$p_t = p_{t-1} - \min\left(\frac{f(p_{t-1}) - f_{\min}}{\lVert g_t \rVert^2 + \epsilon}, \eta_{\max}\right) g_t$$

    It needs the loss: `update(gradients, state, params, value=loss)`, or `step(..., value=loss)`.

    Args:
        max_learning_rate: $\eta_{\max}$, a number or a schedule.
        scaling: a factor on the gradient before the step size is taken, a number or a schedule.
        f_min: the least value that the loss can have.
        eps: $\epsilon \ge 0$.
        variant: `"sps"`, or `"sps+"`, which takes a loss below `f_min` as `f_min`.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(scale_by_learning_rate(scaling), scale_by_polyak(f_min, max_learning_rate, eps, variant))`.

    Source:
        Loizou et al., arXiv:2002.10542, equation 3.
    """
    return stored(chain(sgd(scaling), scale_by_polyak(f_min, max_learning_rate, eps, variant)), storage)
