"""Lion's interpolation: the momentum as it was, mixed with the gradient at another rate than its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax

from gradtx._core.hyperparameters import decay_field
from gradtx._core.moments import FirstMoment
from gradtx._core.signal import Signal
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.momentum import trace

Slots = dict[str, jax.Array]


class interpolate(Leafwise):
    r"""Mix the gradient into the first moment of the step before, at a rate of its own.

    $$u = b_1 m_{t-1} + (1 - b_1) g_t$$

    Behind `ema_first_moment(b2)`, whose $m_t = b_2 m_{t-1} + (1 - b_2) g_t$ gives the old moment back:

    $$u = r m_t + (1 - r) g_t, \qquad r = b_1 / b_2$$

    Nothing cancels while $b_1 \le b_2$, and the stored moment is used as it was stored.

    Args:
        b1: the decay $b_1$ in [0, 1); may be a schedule.

    State:
        none.

    Raises:
        ValueError: no `ema_first_moment` stands right before it. One with `b2=0` remembers nothing to mix with, and
            the update is then NaN.

    Source:
        Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, Algorithm 2, first line of the
        update.
    """

    b1: Any = decay_field(default=0.9)

    requires: ClassVar[tuple[str, ...]] = ("first",)
    ignores_zeros: ClassVar[bool] = True

    def check_place(self, before: dict[str, Any]) -> None:
        if isinstance(before.get("first"), trace):
            raise ValueError("interpolate behind trace: a trace is a sum, not an average; use ema_first_moment")

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return {"share": step.complement(self.b1)}, {}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        first = signal.first
        if first is None or not signal.fresh:
            raise ValueError(
                "interpolate belongs right behind the momentum: another stage has changed the update since"
            )
        of_gradient = (s.share - first.gain) / first.retain
        of_moment = (1 - s.share) / first.retain
        raw = of_moment * first.raw + of_gradient * first.input
        weight = of_moment * first.weight + of_gradient
        mixed = FirstMoment(raw, None, weight, first.rate, first.retain, first.gain, first.input)
        return signal.replace(update=raw, first=mixed, fresh=True)
