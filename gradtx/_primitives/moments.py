"""Estimators: exponential moving averages of the gradient and of its square, and the sum of squares."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import jax

from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.moments import FirstMoment, SecondMoment
from gradtx._core.safe import safe_divide, square
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot, slot_storage
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import average, towards, weight_slot

Slots = dict[str, jax.Array]


class ema_first_moment(Leafwise):
    r"""Replace the update by an exponential moving average of the gradient.

    $$m_t = b_1 m_{t-1} + (1 - b_1) g_t, \qquad m_0 = 0$$

    The state is the debiased mean $\hat m_t = m_t / (1 - b_1^t)$, which `bias_correction` behind it uses as it is;
    without that stage the update is $m_t$.

    Args:
        b1: the decay $b_1$ in [0, 1); may be a schedule.
        dtype: the dtype in which the mean is stored; None is float32 (float64 for float64 parameters).

    State:
        `mu`: like the parameters. `weight`: float[3], only if the decay is a schedule.

    Source:
        Kingma & Ba, "Adam", arXiv:1412.6980, Algorithm 1, first line of the loop's moments.
    """

    b1: Any = decay_field(default=0.9)
    dtype: Any = None

    estimates: ClassVar[Literal["first", "second"] | None] = "first"
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dtype", slot_storage(self.dtype, self, "dtype"))

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("mu", dtype=self.dtype, rate="rate"), *weight_slot(self.b1))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return average(step, self.b1)

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"mu": towards(slots["mu"], signal.captured, s.rate)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        mean = slots["mu"]
        raw = mean * s.weight
        first = FirstMoment(raw, mean, s.weight, s.rate, s.retain, s.gain, signal.captured)
        return signal.replace(update=raw, first=first, fresh=True)


class ema_second_moment(Leafwise):
    r"""Estimate the second moment of the gradient; the update passes through unchanged.

    $$v_t = b_2 v_{t-1} + (1 - b_2) |g_t|^2, \qquad v_0 = \text{initial}$$

    The state is the debiased mean of the squares. Gradients beyond the root of the largest float (1.8e19 in float32)
    enter both moments of the scope clamped to it: their square would be infinite for ever.

    Args:
        b2: the decay $b_2$ in [0, 1); may be a schedule.
        initial: $v_0 \ge 0$.

    State:
        `nu`: real, like the parameters; the mean without the part of `initial`. `weight`: float[3], only if the decay
        is a schedule.

    Source:
        Kingma & Ba, "Adam", arXiv:1412.6980, Algorithm 1; Hinton's RMSProp (lecture 6e) for the uncorrected form.
    """

    b2: Any = decay_field(default=0.999)
    initial: Any = number_field(default=0.0, minimum=0.0)

    estimates: ClassVar[Literal["first", "second"] | None] = "second"
    squares: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("nu", real=True, rate="rate"), *weight_slot(self.b2))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return average(step, self.b2)

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"nu": towards(slots["nu"], signal.squares, s.rate)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return signal.replace(second=SecondMoment(slots["nu"], s.weight, s.initial * s.left))


class ema_centered_moment(Leafwise):
    r"""Estimate the variance of the gradient in place of its second moment; the update passes through unchanged.

    $$v_t = b v_{t-1} + (1 - b) |g_t|^2, \quad m_t = b m_{t-1} + (1 - b) g_t, \quad \text{second moment} = v_t - |m_t|^2$$

    Computed without that difference, which cancels and can turn negative. With debiased averages, weight $w$ and
    rate $q$ the variance obeys Welford's recurrence $s \leftarrow (1-q) s + q (1-q) |g - \hat m_{t-1}|^2$, where the
    distance is $|g - \hat m_t| / (1-q)$, and
    $v - |m|^2 = w s + w (1-w) |\hat m|^2$ is a sum of nonnegative terms. Bias-corrected, it is $s$.

    Args:
        decay: the decay $b$ in [0, 1); may be a schedule.
        initial: $v_0 \ge 0$.

    State:
        `mu`: like the parameters, the debiased mean. `nu`: real, the debiased variance. `weight`: float[3], only if
        the decay is a schedule.

    Source:
        Graves, "Generating Sequences With Recurrent Neural Networks", arXiv:1308.0850, equations 38-39; the
        recurrence: Welford, Technometrics 4(3), 1962.
    """

    decay: Any = decay_field(default=0.9)
    initial: Any = number_field(default=0.0, minimum=0.0)

    estimates: ClassVar[Literal["first", "second"] | None] = "second"
    squares: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("mu", rate="rate"), Slot("nu", real=True, rate="rate"), *weight_slot(self.decay))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return average(step, self.decay)

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        mean, rest = towards(slots["mu"], signal.captured, s.rate), 1 - s.rate
        # From the new mean: with the old one XLA:CPU would copy that first, since the new one takes its place. Halved,
        # twice the largest clamped gradient can be squared.
        squares = square((signal.captured_again - mean) / 2)
        return {"mu": mean, "nu": rest * slots["nu"] + 4 * safe_divide(s.rate, rest) * squares}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        second = SecondMoment(slots["nu"], s.weight, s.initial * s.left, remainder=s.left * square(slots["mu"]))
        return signal.replace(second=second)


class sum_of_squares(Leafwise):
    r"""Sum the squares of the gradient into the second moment; the update passes through unchanged.

    $$v_t = v_{t-1} + |g_t|^2, \qquad v_0 = \text{initial}$$

    The state is the mean of the squares, $v_t / t$ without the initial value: a float32 sum stops growing, a mean
    does not (at 100,000 equal gradients the sum is 3990 ULP off).

    Args:
        initial: $v_0 \ge 0$.

    State:
        `nu`: real, like the parameters.

    Source:
        Duchi, Hazan & Singer, "Adaptive Subgradient Methods", JMLR 12 (2011), Figure 1 (diagonal).
    """

    initial: Any = number_field(default=0.1, minimum=0.0)

    estimates: ClassVar[Literal["first", "second"] | None] = "second"
    squares: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("nu", real=True, rate="rate"),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return {"rate": 1 / step.t, "weight": step.t}, {}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"nu": towards(slots["nu"], signal.squares, s.rate)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return signal.replace(second=SecondMoment(slots["nu"], s.weight, s.initial, has_bias=False))
