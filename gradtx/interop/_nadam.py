"""The momentum of PyTorch's NAdam, which warms up by a schedule of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.moments import FirstMoment
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step

Slots = dict[str, jax.Array]


class scheduled_nesterov(Leafwise):
    r"""Look one step ahead of a first moment, by a momentum that warms up.

    $$u_t = \frac{\mu_{t+1}}{1 - \prod_{i=1}^{t+1} \mu_i} m_t + \frac{1 - \mu_t}{1 - \prod_{i=1}^t \mu_i} g_t, \qquad
    \mu_t = b_1 \left( 1 - \tfrac12 \, 0.96^{t \psi} \right)$$

    Right behind an `ema_first_moment(b1)`, whose $m_t$ is the raw average. In the paper that average follows $\mu_t$ too; in
    PyTorch its decay is the constant $b_1$, and this is what PyTorch does.

    Args:
        b1: the decay of the average, in [0, 1).
        momentum_decay: $\psi \ge 0$, how fast $\mu_t$ grows to $b_1$.

    State:
        `mu_product`: float scalar, the product of all $\mu_i$ so far; 0 before the first step.

    Raises:
        ValueError: another stage has changed the update since the first moment was estimated, or there is none.

    Source:
        Dozat, "Incorporating Nesterov Momentum into Adam" (2016), Algorithm 2 and its schedule; `torch.optim.NAdam`.
    """

    b1: Any = decay_field(default=0.9)
    momentum_decay: Any = number_field(default=4e-3, minimum=0.0)

    requires: ClassVar[tuple[str, ...]] = ("first",)
    passes_gradient: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("mu_product", "scalar"),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        b1, decay = step.value(self.b1), step.value(self.momentum_decay)
        now, later = (b1 * (1 - 0.5 * 0.96 ** ((step.t + n) * decay)) for n in (0, 1))
        product = now * jnp.where(step.count == 0, 1, step.memory["mu_product"])
        return {"of_mean": later / (1 - product * later), "of_input": (1 - now) / (1 - product)}, {
            "mu_product": product
        }

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        first = signal.first
        if first is None or not signal.fresh or first.corrected is None:
            raise ValueError(
                "scheduled_nesterov belongs right behind ema_first_moment: another stage has changed the update since"
            )
        corrected = s.of_mean * first.raw + s.of_input * first.input
        raw = first.weight * corrected
        ahead = FirstMoment(raw, corrected, first.weight, first.rate, first.retain, first.gain, first.input)
        return signal.replace(update=raw, first=ahead, fresh=True)
