"""Optimistic gradients: the step repeats the last change of the gradient, expecting it to go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import number_field
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step

Slots = dict[str, jax.Array]


class scale_by_optimistic_gradient(Leafwise):
    r"""Add the last change of the update to it.

    $$u_t = \alpha g_t + \beta (g_t - g_{t-1}), \qquad g_0 := g_1$$

    Args:
        alpha: $\alpha$; may be a schedule.
        beta: $\beta$; may be a schedule.

    State:
        `previous_gradient`: like the parameters.

    Source:
        Mokhtari, Ozdaglar & Pattathil, "A Unified Analysis of Extra-gradient and Optimistic Gradient Methods for
        Saddle Point Problems", arXiv:1901.08511, equation 7 (the generalized form).
    """

    alpha: Any = number_field(default=1.0)
    beta: Any = number_field(default=1.0)

    recalls: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("previous_gradient"),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return {"later": jnp.where(step.count == 0, 0, jnp.ones_like(step.t))}, {}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"previous_gradient": signal.update}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        change = s.later * (signal.update - s.old["previous_gradient"])
        return signal.write(s.alpha * signal.update + s.beta * change)
