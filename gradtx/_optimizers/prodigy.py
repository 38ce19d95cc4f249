"""Prodigy: AdamW that estimates its learning rate."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._primitives.distance import scale_by_prodigy
from gradtx._storing import stored


def prodigy(
    learning_rate: Any = 1.0,
    betas: tuple[Any, Any] = (0.9, 0.999),
    beta3: Any = None,
    eps: Any = 1e-8,
    estim_lr0: Any = 1e-6,
    estim_lr_coef: Any = 1.0,
    weight_decay: Any = 0.0,
    safeguard_warmup: bool = False,
    *,
    storage: Any = None,
) -> Stage:
    """AdamW whose steps are as long as the estimated distance from the first parameters to the solution.

    `learning_rate` multiplies the estimate; leave it at 1, or let a schedule go from 1 to 0. The parameters given to
    `init` are where the distance is measured from. What `optax.tree.get(state, "estim_lr")` reads is the estimate.

    Args:
        learning_rate: a number or a schedule.
        betas: the decays of Adam's first and second moment, numbers in [0, 1).
        beta3: the decay of the sums from which the distance is estimated, in [0, 1); None: the root of the second.
        eps: added to the root of the second moment, in units of the estimate; >= 0.
        estim_lr0: the first estimate, > 0; it must be smaller than the distance, and only grows.
        estim_lr_coef: a factor of every later estimate, >= 0.
        weight_decay: decoupled, multiplied by the length of the step; >= 0, may be a schedule.
        safeguard_warmup: set it with a learning rate that warms up, and the estimate does not become larger by it.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(scale_by_prodigy(learning_rate, *betas, beta3, ...))`.

    Raises:
        TypeError: `betas` is not a pair, or a decay is a schedule.
        ValueError: a number is out of its range.

    Source:
        Mishchenko & Defazio, arXiv:2306.06101, Algorithm 4.
    """
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"prodigy(betas=...): expected a pair of numbers, got {betas!r}")
    b1, b2 = betas
    if beta3 is None:
        if callable(b2):
            raise TypeError(f"prodigy(betas=...): expected a pair of numbers, got the schedule {b2!r}")
        beta3 = b2**0.5
    rest = (eps, estim_lr0, estim_lr_coef, weight_decay, safeguard_warmup)
    return stored(chain(scale_by_prodigy(learning_rate, b1, b2, beta3, *rest)), storage)
