"""AdaDelta's second average: of the updates, which gives them the parameters' unit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax

from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.safe import safe_divide, safe_sqrt, square
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import average, towards, weight_before, weight_slot

Slots = dict[str, jax.Array]


class scale_by_delta_rms(Leafwise):
    r"""Multiply the update by the root of a moving average of the squares of what came out before.

    $$u_t = x_t \sqrt{d_{t-1} + \epsilon}, \qquad d_t = \rho d_{t-1} + (1 - \rho) |u_t|^2, \qquad d_0 = 0$$

    Given $d_t$ as it is stored, $d_{t-1} + \epsilon = (d_t + \rho \epsilon) / (\rho + (1 - \rho) |x_t|^2)$: a
    quotient of sums, in which nothing cancels.

    Args:
        rho: the decay $\rho$ in [0, 1); may be a schedule.
        eps: $\epsilon \ge 0$; with 0 nothing ever starts to move.

    State:
        `delta`: real, like the parameters: the debiased mean of the squares. `weight`: float[3], only if the decay is
        a schedule.

    Source:
        Zeiler, "ADADELTA: An Adaptive Learning Rate Method", arXiv:1212.5701, Algorithm 1, lines 5-6.
    """

    rho: Any = decay_field(default=0.9)
    eps: Any = number_field(default=1e-6, minimum=0.0)

    ignores_zeros: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("delta", real=True, rate="rate"), *weight_slot(self.rho))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        numbers, memory = average(step, self.rho)
        return {**numbers, "before": weight_before(step, self.rho)}, memory

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        moved = (slots["delta"] * s.before + s.eps) * square(signal.update)
        return {"delta": towards(slots["delta"], moved, s.rate)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        above = slots["delta"] * s.weight + s.retain * s.eps
        below = s.retain + s.gain * square(signal.update)
        return signal.write(signal.update * safe_sqrt(safe_divide(above, below)))
