"""The largest second moment so far, which makes the step sizes of AMSGrad fall monotonically."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.moments import RawMoment, SecondMoment
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise

Slots = dict[str, jax.Array]


class running_max(Leafwise):
    r"""Replace the second moment by the largest it has been; the update passes through unchanged.

    $$\tilde v_t = \max(\tilde v_{t-1}, v_t), \qquad \tilde v_0 = 0$$

    Behind `bias_correction` the maximum is taken over the corrected moments (Optax); before it over the raw ones, and the
    correction divides their maximum by the weight of this step (PyTorch).

    State:
        `nu_max`: real, like the parameters.

    Raises:
        ValueError: no second moment was estimated before it in its scope.

    Source:
        Reddi, Kale & Kumar, "On the Convergence of Adam and Beyond", ICLR 2018, Algorithm 2.
    """

    requires: ClassVar[tuple[str, ...]] = ("second",)
    writes: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("nu_max", real=True),)

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        assert signal.second is not None
        return {"nu_max": jnp.maximum(slots["nu_max"], signal.second.value())}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        second, largest = signal.second, slots["nu_max"]
        assert second is not None
        if second.corrected:
            one = jnp.ones_like(second.weight)
            return signal.replace(second=SecondMoment(largest, one, one - one, corrected=True))
        weight = second.weight
        return signal.replace(second=RawMoment(largest, weight, jnp.zeros_like(weight), has_bias=second.has_bias))
