"""A second moment for a whole leaf: the mean of its squared gradient."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from gradtx._core.factors import mean_of_squares
from gradtx._core.hyperparameters import decay_field
from gradtx._core.moments import SecondMoment
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import towards

Slots = dict[str, jax.Array]


class ema_squared_norm(Leafwise):
    r"""Estimate the second moment of a whole leaf: a running average of its squared norm. The update passes through.

    $$v_t = b_2 v_{t-1} + (1 - b_2) \lVert g_t \rVert^2, \qquad v_1 = \lVert g_1 \rVert^2$$

    The state is $v_t$ divided by the number of elements, which does not overflow.

    Args:
        b2: the decay $b_2$ in [0, 1); may be a schedule.

    State:
        `nu`: a real scalar a leaf.

    Source:
        Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks"
        (NovoGrad), arXiv:1905.11286, Algorithm 1.
    """

    b2: Any = decay_field(default=0.25)

    estimates: ClassVar[Literal["first", "second"] | None] = "second"
    squares: ClassVar[bool] = True
    writes: ClassVar[bool] = False

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("nu", role="factored", real=True, shape=lambda shape: ()),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return {"rate": jnp.where(step.count == 0, 1, step.complement(self.b2))}, {}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"nu": towards(slots["nu"], mean_of_squares(signal.unclamped), s.rate)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        size = jnp.full_like(s.rate, max(signal.captured.size, 1))
        return signal.replace(second=SecondMoment(slots["nu"], size, jnp.zeros_like(size), has_bias=False))
