"""Rprop's step sizes: they grow while the gradient's sign stays, and shrink where it turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.hyperparameters import leaf_field, number_field
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step

Slots = dict[str, jax.Array]


class scale_by_rprop(Leafwise):
    r"""Replace the update by its sign times a step size that every parameter has for itself.

    With $\sigma = \text{sign}(g_t)\, \text{sign}(g_{t-1})$:

    $$\Delta_t = \min(\eta^+ \Delta_{t-1}, \Delta_{\max}) \text{ if } \sigma > 0, \qquad
    \Delta_t = \max(\eta^- \Delta_{t-1}, \Delta_{\min}), \; g_t := 0 \text{ if } \sigma < 0, \qquad
    u = \Delta_t \, \text{sign}(g_t)$$

    This is iRprop-: where the sign turns, the parameter waits for one step. For full-batch gradients.

    Args:
        learning_rate: $\Delta_0$; no schedule, since it is used once.
        eta_minus: $\eta^-$, in (0, 1).
        eta_plus: $\eta^+$, > 1.
        min_step_size: $\Delta_{\min}$.
        max_step_size: $\Delta_{\max}$.

    State:
        `step_sizes`: real, like the parameters. `previous_sign`: int8, the sign of the last gradient, 0 where it
        turned.

    Raises:
        TypeError: a leaf is complex: its numbers have no sign.

    Source:
        Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm", ICNN
        1993, equations 4-7; Igel & Huesken, "Improving the Rprop learning algorithm", NC 2000, section 2.3 (iRprop-).
    """

    learning_rate: Any = leaf_field(minimum=0.0)
    eta_minus: Any = number_field(default=0.5, minimum=0.0)
    eta_plus: Any = number_field(default=1.2, minimum=0.0)
    min_step_size: Any = number_field(default=1e-6, minimum=0.0)
    max_step_size: Any = number_field(default=50.0, minimum=0.0)

    ignores_zeros: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("step_sizes", real=True), Slot("previous_sign", dtype=np.dtype(np.int8), real=True))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return {"first": step.t == 1}, {}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        if jnp.iscomplexobj(signal.update):
            raise TypeError("scale_by_rprop: expected real updates, got complex ones, which have no sign")
        sign = jnp.sign(signal.update)
        agrees = sign * slots["previous_sign"].astype(sign.dtype)
        size = jnp.where(s.first > 0, s.learning_rate, slots["step_sizes"])
        factor = jnp.where(agrees > 0, s.eta_plus, s.eta_minus)
        moved = jnp.clip(size * factor, s.min_step_size, s.max_step_size)
        return {
            "step_sizes": jnp.where(agrees == 0, size, moved),
            "previous_sign": jnp.where(agrees < 0, 0, sign),
        }

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return signal.write(slots["step_sizes"] * slots["previous_sign"].astype(signal.update.dtype))
