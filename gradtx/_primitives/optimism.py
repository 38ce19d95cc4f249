"""Optimistic gradients: the step repeats the last change of the gradient, expecting it to go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import number_field
from gradtx._core.slots import Slot
from gradtx._core.stages import Leaves, Step, Treewise

Slots = dict[str, jax.Array]


class scale_by_optimistic_gradient(Treewise):
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

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("previous_gradient"),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return {"first": step.t == 1}, {}

    def update_leaves(self, s: SimpleNamespace, leaves: Leaves) -> Leaves:
        # Each leaf by itself, but the update needs the gradient that the slot held before this step.
        signals, slots = [], []
        for signal, old in zip(leaves.signals, leaves.slots, strict=True):
            gradient, real = signal.update, jnp.finfo(signal.update.dtype).dtype
            change = jnp.where(s.first > 0, 0, gradient - old["previous_gradient"])
            signals.append(signal.write(s.alpha.astype(real) * gradient + s.beta.astype(real) * change))
            slots.append({"previous_gradient": gradient})
        return leaves.replace(signals=signals, slots=slots)
