"""Momentum: the heavy ball's trace, and Nesterov's look ahead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax

from gradtx._core.hyperparameters import decay_field
from gradtx._core.moments import FirstMoment
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot, slot_storage
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import average, towards, weight_slot

Slots = dict[str, jax.Array]


class trace(Leafwise):
    r"""Heavy-ball momentum: replace the update by a decaying sum of the updates so far.

    $$z_t = \text{decay} \cdot z_{t-1} + u_t$$

    It sums what flows in at its place, and not the gradient as the estimators do, so it also stands behind a
    `scale_by_rms` (RMSProp with momentum).

    Args:
        decay: in [0, 1); may be a schedule.
        accumulator_dtype: the dtype in which it is stored; None is float32 (float64 for float64 parameters).

    State:
        `trace`: like the parameters: $z_t$ divided by the sum of its weights, $(1 - \text{decay}^t) / (1 -
        \text{decay})$, for the digits' sake. `weight`: float[3], only if the decay is a schedule.

    Source:
        Polyak, "Some methods of speeding up the convergence of iteration methods" (1964); in the form of
        Sutskever et al., ICML 2013, equation 1, with the learning rate outside.
    """

    decay: Any = decay_field(default=0.9)
    accumulator_dtype: Any = None

    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        dtype = slot_storage(self.accumulator_dtype, self, "accumulator_dtype")
        object.__setattr__(self, "accumulator_dtype", dtype)

    def check_place(self, before: dict[str, Any]) -> None:
        before["first"] = self
        before.setdefault("captured", self)

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("trace", dtype=self.accumulator_dtype, rate="rate"), *weight_slot(self.decay))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return average(step, self.decay, unit_gain=True)

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"trace": towards(slots["trace"], signal.update, s.rate)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        raw = slots["trace"] * s.weight
        first = FirstMoment(raw, None, s.weight, s.rate, s.retain, s.gain, signal.update)
        return signal.capture().replace(update=raw, first=first, fresh=True)


class nesterov(Leafwise):
    r"""Look one step ahead of the momentum: repeat its recurrence with the same input once more.

    Behind a `trace`: $u = \text{decay} \cdot z_t + u_t$. Behind an `ema_first_moment`: $u = b_1 m_t + (1 - b_1) g_t$, and
    with `bias_correction` behind it $\frac{b_1 m_t}{1 - b_1^{t+1}} + \frac{(1 - b_1) g_t}{1 - b_1^t}$.

    State:
        none.

    Source:
        Sutskever et al., ICML 2013, section 2; Dozat, "Incorporating Nesterov Momentum into Adam" (2016),
        Algorithm 2.
    """

    requires: ClassVar[tuple[str, ...]] = ("first",)
    passes_gradient: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        first = signal.first
        if first is None or not signal.fresh:
            raise ValueError("nesterov belongs right behind the momentum: another stage has changed the update since")
        raw = first.retain * first.raw + first.gain * first.input
        corrected = None
        if first.corrected is not None:
            next_weight = first.retain * first.weight + first.gain
            corrected = (1 - first.gain / next_weight) * first.corrected + first.rate * first.input
        ahead = FirstMoment(raw, corrected, first.weight, first.rate, first.retain, first.gain, first.input)
        return signal.replace(update=raw, first=ahead, fresh=True)
