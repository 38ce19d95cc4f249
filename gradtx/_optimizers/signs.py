"""Optimizers that use the gradient's sign: signSGD, Signum, Lion, Rprop."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import Chain, chain
from gradtx._core.stages import Stage
from gradtx._primitives.clipping import clip
from gradtx._primitives.interpolation import interpolate
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.resilient import scale_by_rprop
from gradtx._primitives.scaling import scale, scale_by_learning_rate, scale_by_sign, scale_by_tanh
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored


def sign_sgd(learning_rate: Any, *, storage: Any = None) -> Stage:
    """signSGD: every parameter moves by the learning rate, against the sign of its gradient.

    Args:
        learning_rate: a number or a schedule.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(scale_by_sign(), scale_by_learning_rate(learning_rate))`.

    Source:
        Bernstein et al., arXiv:1802.04434, Algorithm 1.
    """
    return stored(chain(scale_by_sign(), scale_by_learning_rate(learning_rate)), storage)


def signum(learning_rate: Any, beta: Any = 0.9, accumulator_dtype: Any = None, *, storage: Any = None) -> Stage:
    """Signum: signSGD on a moving average of the gradient.

    Args:
        learning_rate: a number or a schedule.
        beta: the decay of the average, in [0, 1), may be a schedule.
        accumulator_dtype: the dtype in which the average is stored; None is float32.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(ema_first_moment(beta), scale_by_sign(), scale_by_learning_rate(learning_rate))`.

    Source:
        Bernstein et al., arXiv:1802.04434, Algorithm 2.
    """
    return stored(
        chain(ema_first_moment(beta, accumulator_dtype), scale_by_sign(), scale_by_learning_rate(learning_rate)),
        storage,
    )


def scale_by_lion(
    b1: Any = 0.9,
    b2: Any = 0.99,
    mu_dtype: Any = None,
    *,
    mode: str = "hard",
    smooth_beta: Any = 1.0,
) -> Chain:
    r"""The direction of `lion`, without weight decay and learning rate; arguments as there.

    Args:
        b1: as in `lion`.
        b2: as in `lion`.
        mu_dtype: as in `lion`.
        mode: what stands for the sign: `"hard"` the sign, `"smooth"` $\tanh(\beta u)$, `"refined"` the update itself
            where it is smaller than 1.
        smooth_beta: $\beta$ of the smooth one.

    Returns:
        `chain(ema_first_moment(b2), interpolate(b1), scale_by_sign())`, with `scale_by_tanh` or `clip` for the sign.

    Raises:
        ValueError: `b2` is 0: there is no momentum to mix with; or an unknown mode.
    """
    if isinstance(b2, (int, float)) and b2 == 0:
        raise ValueError("lion(b2=...): expected a decay rate in (0, 1), got 0")
    if mode not in ("hard", "smooth", "refined"):
        raise ValueError(f"scale_by_lion(mode=...): expected 'hard', 'smooth' or 'refined', got {mode!r}")
    signs = {"hard": scale_by_sign(), "smooth": scale_by_tanh(smooth_beta), "refined": clip(1.0)}
    return chain(ema_first_moment(b2, mu_dtype), interpolate(b1), signs[mode])


def lion(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.99,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-3,
    mask: Any = None,
    *,
    storage: Any = None,
) -> Stage:
    """Lion: the sign of an average that gives this step's gradient more weight than its memory does.

    Args:
        learning_rate: a number or a schedule; a third to a tenth of Adam's.
        b1: the decay with which the update mixes gradient and momentum, in [0, 1), may be a schedule.
        b2: the decay of the momentum, in (0, 1), may be a schedule; at least `b1`, or digits are lost.
        mu_dtype: the dtype in which the momentum is stored; None is float32.
        weight_decay: decoupled, >= 0, a number or a schedule; three to ten times AdamW's.
        mask: which leaves decay; see `decoupled_weight_decay`.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(ema_first_moment(b2), interpolate(b1), scale_by_sign(), decoupled_weight_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate))`.

    Raises:
        ValueError: `b2` is 0: there is no momentum to mix with.

    Source:
        Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, Algorithm 2.
    """
    return stored(
        chain(
            scale_by_lion(b1, b2, mu_dtype),
            decoupled_weight_decay(weight_decay, mask),
            scale_by_learning_rate(learning_rate),
        ),
        storage,
    )


def rprop(
    learning_rate: Any,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
    *,
    storage: Any = None,
) -> Stage:
    """Rprop (iRprop-): every parameter has a step size of its own, which only the gradient's signs change.

    Optax 0.2.8 applies each update one step late, so that its first one is zero; this is the paper's, and PyTorch's.

    Args:
        learning_rate: the first step size; no schedule.
        eta_minus: the factor where the sign turns, in (0, 1).
        eta_plus: the factor where it stays, > 1.
        min_step_size: the smallest step size.
        max_step_size: the largest.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(scale_by_rprop(...), scale(-1.0))`.

    Source:
        Riedmiller & Braun, ICNN 1993; Igel & Huesken, NC 2000, section 2.3.
    """
    return stored(
        chain(scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size), scale(-1.0)), storage
    )
