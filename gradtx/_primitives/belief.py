"""AdaBelief's second moment: how far the gradient lies from its own average."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.moments import SecondMoment
from gradtx._core.order import label
from gradtx._core.safe import safe_divide, square
from gradtx._core.schedule import Schedule
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import average, towards, weight_slot
from gradtx._primitives.momentum import trace

Slots = dict[str, jax.Array]


class ema_belief_moment(Leafwise):
    r"""Estimate the second moment of the gradient's distance from its first moment; the update passes through.

    $$v_t = b_2 v_{t-1} + (1 - b_2) |g_t - m_t|^2 + \epsilon_{\text{root}}, \qquad v_0 = 0$$

    It stands right behind the first moment, which it needs as it is after this step. The state is the debiased mean of
    $|g_t - m_t|^2$. A mean of constants is the constant, $\epsilon_{\text{root}} / (1 - b_2)$ here, which is added to the state where
    it is read: a mean that falls towards it would stop hundreds of units in the last place above. Only where the decay or
    $\epsilon_{\text{root}}$ follows a schedule is it part of the state.

    Args:
        b2: the decay $b_2$ in [0, 1); may be a schedule.
        eps_root: $\epsilon_{\text{root}} \ge 0$, added at every step.

    State:
        `nu`: real, like the parameters. `weight`: float[3], only if the decay is a schedule.

    Raises:
        ValueError: no `ema_first_moment` stands right before it, or another second moment was estimated already.

    Source:
        Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients", arXiv:2010.07468,
        Algorithm 2.
    """

    b2: Any = decay_field(default=0.999)
    eps_root: Any = number_field(default=1e-16, minimum=0.0)

    requires: ClassVar[tuple[str, ...]] = ("first",)
    squares: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = True

    def check_place(self, before: dict[str, Any]) -> None:
        if isinstance(before["first"], trace):
            raise ValueError("ema_belief_moment behind trace: a trace is a sum, not an average; use ema_first_moment")
        if "second" in before:
            raise ValueError(
                f"ema_belief_moment would estimate the second moment that {label(before['second'])} already estimates"
            )
        before["second"] = self

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("nu", real=True, rate="rate"), *weight_slot(self.b2))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        numbers, memory = average(step, self.b2)
        floor = safe_divide(step.value(self.eps_root), numbers["gain"])
        inside = floor if self.floor_moves() else jnp.zeros_like(floor)
        return {**numbers, "inside": inside, "floor": floor - inside}, memory

    def floor_moves(self) -> bool:
        """Whether what is added at every step is not always the same."""
        return isinstance(self.b2, Schedule) or isinstance(self.eps_root, Schedule)

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        first = signal.first
        if first is None or not signal.fresh:
            raise ValueError(
                "ema_belief_moment belongs right behind the first moment: another stage has changed the update since"
            )
        # The distance of gradients that can be squared may be twice as large.
        spread = jnp.minimum(square(first.input - first.raw), jnp.finfo(slots["nu"].dtype).max)
        return {"nu": towards(slots["nu"], spread + s.inside, s.rate)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return signal.replace(second=SecondMoment(slots["nu"] + s.floor, s.weight, jnp.zeros_like(s.weight)))
