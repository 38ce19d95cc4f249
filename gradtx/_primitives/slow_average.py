"""A second, slow average of the gradient, beside the first moment."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, ClassVar

import jax

from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot, slot_storage
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import average, towards, weight_slot

Slots = dict[str, jax.Array]


class add_slow_average(Leafwise):
    r"""Add a multiple of a slow average of the gradient to the first moment.

    $$s_t = b_3 s_{t-1} + (1 - b_3) g_t, \qquad m \leftarrow m + \alpha s_t, \qquad s_0 = 0$$

    Behind an `ema_first_moment`. `bias_correction` behind it corrects that one and leaves the slow average as it is: it
    shall fill slowly.

    Args:
        b3: the decay $b_3$ in [0, 1); may be a schedule.
        alpha: $\alpha$; may be a schedule.
        dtype: the dtype in which the average is stored; None is float32 (float64 for float64 parameters).

    State:
        `mu_slow`: like the parameters, the debiased mean $s_t / w_t$. `weight`: float[3], only if the decay is a
        schedule.

    Raises:
        ValueError: another stage has changed the update since the first moment was estimated, or there is none.

    Source:
        Pagliardini, Ablin & Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", arXiv:2409.03137, Algorithm 1.
    """

    b3: Any = decay_field(default=0.9999)
    alpha: Any = number_field(default=5.0)
    dtype: Any = None

    requires: ClassVar[tuple[str, ...]] = ("first",)
    passes_gradient: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dtype", slot_storage(self.dtype, self, "dtype"))

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("mu_slow", dtype=self.dtype, rate="rate"), *weight_slot(self.b3))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return average(step, self.b3)

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"mu_slow": towards(slots["mu_slow"], signal.captured, s.rate)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        first = signal.first
        if first is None or not signal.fresh or first.corrected is None:
            raise ValueError(
                "add_slow_average belongs right behind ema_first_moment: another stage has changed the update since"
            )
        slow = (s.alpha * s.weight) * slots["mu_slow"]
        mixed = dataclasses.replace(first, raw=first.raw + slow, corrected=first.corrected + slow)
        return signal.replace(update=mixed.raw, first=mixed, fresh=True)
