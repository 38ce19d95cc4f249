"""Sums of updates that are let through once in a while."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step

Slots = dict[str, jax.Array]


class apply_every(Leafwise):
    r"""Add up the updates, and let their sum through at every `k`-th step; in between the update is zero.

    The stages before it run at every step. To make one step of the whole optimizer from several gradients, put
    `accumulate_gradients` around it.

    Args:
        k: the steps in one sum, an int >= 1.

    State:
        `grad_acc`: like the parameters, the sum so far.

    Raises:
        TypeError, ValueError: `k` is no int, or smaller than 1.
    """

    k: int = 1

    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        k: Any = self.k
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"apply_every(k=...): expected an int, got {k!r}")
        if k < 1:
            raise ValueError(f"apply_every(k=...): expected at least 1, got {k}")

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("grad_acc"),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        at = (step.count % self.k).astype(step.t.dtype)
        return {"at": at}, {}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"grad_acc": jnp.where(s.at == 0, signal.update, slots["grad_acc"] + signal.update)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return signal.write(jnp.where(s.at == self.k - 1, slots["grad_acc"], 0))
