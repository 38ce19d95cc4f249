"""What the step before saw: its gradient, and the second moment before this one's gradient entered it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.safe import safe_divide, safe_sqrt, zero_of
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import average, towards, weight_slot

Slots = dict[str, jax.Array]


class variance_reduction(Leafwise):
    r"""Correct the gradient by a multiple of its last change.

    $$c_t = g_t + \gamma \frac{b_1}{1 - b_1} (g_t - g_{t-1}), \qquad g_0 := g_1$$

    This is the approximate form, with the gradient as it was at the last step. The exact one evaluates the last
    parameters on this step's batch.

    Args:
        gamma: $\gamma$; may be a schedule.
        b1: $b_1$ in [0, 1), the decay of the first moment behind it; may be a schedule.

    State:
        `previous_gradient`: like the parameters.

    Source:
        Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models", arXiv:2411.10438,
        Algorithm 1, line 4, with the approximation of section 3.
    """

    gamma: Any = number_field(default=0.025)
    b1: Any = decay_field(default=0.95)

    recalls: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("previous_gradient"),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        complement = step.complement(self.b1)
        factor = step.value(self.gamma) * ((1 - complement) / complement)
        return {"factor": jnp.where(step.count == 0, 0, factor)}, {}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"previous_gradient": signal.update}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        gradient = slots["previous_gradient"]
        return signal.write(gradient + s.factor * (gradient - s.old["previous_gradient"]))


class nesterov_difference(Leafwise):
    r"""Look ahead along the changes of the gradient: Adan's form of Nesterov's momentum.

    $$d_t = g_t - g_{t-1}, \quad v_t = b_2 v_{t-1} + (1 - b_2) d_t, \quad m \leftarrow m + a v_t, \quad
    g \leftarrow g_t + a d_t, \qquad g_0 := g_1$$

    Behind an `ema_first_moment`, to whose average it adds that of the changes, and in front of the
    `ema_second_moment`, which sees the gradient that this stage leaves. `bias_correction` behind them corrects each of
    the three averages by its own weight.

    Args:
        b2: the decay $b_2$ in [0, 1); may be a schedule.
        ahead: how far $a \ge 0$ it looks; may be a schedule. None: $a = b_2$, as in the paper; Optax 0.2.8 has $1 - b_2$.

    State:
        `previous_gradient`: like the parameters. `mu_difference`: like the parameters, the debiased mean of the
        changes. `weight`: float[3], only if the decay is a schedule.

    Raises:
        ValueError: another stage has changed the update since the first moment was estimated, or there is none.

    Source:
        Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models", arXiv:2208.06677,
        Algorithm 1, whose $\beta$ are $1 - b$.
    """

    b2: Any = decay_field(default=0.92)
    ahead: Any = number_field(default=None, minimum=0.0, optional=True)

    requires: ClassVar[tuple[str, ...]] = ("first",)
    recalls: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = True

    def check_place(self, before: dict[str, Any]) -> None:
        if "second" in before:
            raise ValueError(
                "nesterov_difference changes the gradient that the second moment sees: put it before the estimator of "
                "the second moment, right behind ema_first_moment"
            )

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("previous_gradient"), Slot("mu_difference", rate="rate"), *weight_slot(self.b2))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        numbers, memory = average(step, self.b2)
        far = numbers["retain"] if self.ahead is None else step.value(self.ahead)
        return {**numbers, "far": far, "later": jnp.where(step.count == 0, 0, jnp.ones_like(step.t))}, memory

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        change = s.later * (signal.captured - slots["previous_gradient"])
        return {
            "previous_gradient": signal.captured,
            "mu_difference": towards(slots["mu_difference"], change, s.rate),
        }

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        first, gradient = signal.first, slots["previous_gradient"]
        if first is None or not signal.fresh or first.corrected is None:
            raise ValueError(
                "nesterov_difference belongs right behind ema_first_moment: another stage has changed the update since"
            )
        mean = s.far * slots["mu_difference"]
        raw, corrected = first.raw + s.weight * mean, first.corrected + mean
        ahead = dataclasses.replace(first, raw=raw, corrected=corrected)
        seen = Signal(gradient + (s.far * s.later) * (gradient - s.old["previous_gradient"]), clamp=signal.clamp)
        seen = seen.capture()
        return signal.replace(gradient=seen.gradient, whole=seen.whole, update=raw, first=ahead, fresh=True)


class scale_by_previous_rms(Leafwise):
    r"""Divide the gradient by the root of its second moment at the step before, of which it is no part yet.

    $$u_t = \frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)}, \qquad v_t = b_2 v_{t-1} + (1 - b_2) |g_t|^2, \qquad
    u_1 = 0, \quad v_1 = |g_1|^2$$

    The first gradient only starts the second moment, which therefore has no bias. A denominator of 0 (no epsilon)
    gives the sign of the gradient.

    Args:
        b2: the decay $b_2$ in [0, 1); may be a schedule.
        eps: $\epsilon \ge 0$, the smallest denominator.

    State:
        `nu`: real, like the parameters.

    Source:
        Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate", arXiv:2411.02853,
        Algorithm 2.
    """

    b2: Any = decay_field(default=0.9999)
    eps: Any = number_field(default=1e-6, minimum=0.0)

    squares: ClassVar[bool] = True
    recalls: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True

    def check_place(self, before: dict[str, Any]) -> None:
        before.setdefault("captured", self)

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("nu", real=True, rate="rate"),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        first = step.count == 0
        return {
            "rate": jnp.where(first, 1, step.complement(self.b2)),
            "later": jnp.where(first, 0, jnp.ones_like(step.t)),
        }, {}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"nu": towards(slots["nu"], signal.capture().squares, s.rate)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        signal = signal.capture()
        denominator = jnp.maximum(safe_sqrt(s.old["nu"]), s.eps)
        # What is not finite becomes NaN: an infinity would come out of ADOPT's clip as an ordinary number.
        return signal.write(safe_divide(s.later * signal.update, denominator) + zero_of(signal.update))
