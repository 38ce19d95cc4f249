"""Lookahead: an optimizer that runs ahead, and weights that follow slowly."""

from __future__ import annotations

from typing import Any

from optax import LookaheadParams as LookaheadParams

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._primitives.parameter_averages import synchronize_slow_weights
from gradtx._storing import stored
from gradtx._wrappers.restarts import restart_every


def lookahead(
    fast_optimizer: Any, sync_period: int, slow_step_size: Any, reset_state: bool = False, *, storage: Any = None
) -> Stage:
    """Let an optimizer run `sync_period` steps ahead, then go back part of the way to the weights it started from.

    The trained parameters are the fast ones, and gradients are taken at them; the slow ones live in the state, and
    `slow_parameters(tx, state, params)` reads them for evaluation. Optax's way works too: `LookaheadParams` in place of the
    parameters, in `init` and `update`, with the gradients of `params.fast`, give updates that are pairs; the slow ones then
    are those in the pair, and the state keeps a copy that plain parameters do without. It belongs at the end of a chain.

    Args:
        fast_optimizer: a transformation, gradtx's or Optax's.
        sync_period: the steps between two synchronizations, an int >= 1.
        slow_step_size: how far the slow weights go towards the fast ones, usually in (0, 1]; may be a schedule.
        reset_state: whether the fast optimizer starts anew, its count included, after each synchronization.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(fast_optimizer, synchronize_slow_weights(sync_period, slow_step_size))`.

    Raises:
        ValueError: `sync_period` is not an int >= 1.

    Source:
        Zhang, Lucas, Hinton & Ba, "Lookahead Optimizer", arXiv:1907.08610, Algorithm 1.
    """
    follow = synchronize_slow_weights(sync_period, slow_step_size)
    return stored(chain(restart_every(fast_optimizer, sync_period) if reset_state else fast_optimizer, follow), storage)
