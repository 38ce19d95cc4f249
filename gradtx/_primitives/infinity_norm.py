"""AdaMax's denominator: the largest gradient that has not been forgotten yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.safe import safe_divide
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step

Slots = dict[str, jax.Array]


class scale_by_infinity_norm(Leafwise):
    r"""Divide the update by the decaying maximum of the gradient.

    $$n_t = \max(b_2 n_{t-1}, |g_t| + \epsilon), \qquad n_0 = 0, \qquad u \leftarrow u / n_t$$

    It is the limit for $p \to \infty$ of a moving average of $|g|^p$, rooted, and has no bias to correct. The gradient is
    what the first estimator of the scope saw; without one, what flows in.

    Args:
        b2: the decay $b_2$ in [0, 1); may be a schedule.
        eps: $\epsilon \ge 0$, added to each gradient. A maximum of 0 gives an update of 0, or its sign.

    State:
        `nu`: real, like the parameters.

    Source:
        Kingma & Ba, "Adam", arXiv:1412.6980, Algorithm 2.
    """

    b2: Any = decay_field(default=0.999)
    eps: Any = number_field(default=1e-8, minimum=0.0)

    ignores_zeros: ClassVar[bool] = True

    def check_place(self, before: dict[str, Any]) -> None:
        before.setdefault("captured", self)

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("nu", real=True, rate="complement"),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return {"complement": step.complement(self.b2)}, {}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        old = slots["nu"]
        # With b2 as a factor its rounding to float32 would add up while a maximum decays.
        return {"nu": jnp.maximum(old - s.complement * old, jnp.abs(signal.capture().captured) + s.eps)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        signal = signal.capture()
        return signal.write(safe_divide(signal.update, slots["nu"]))
