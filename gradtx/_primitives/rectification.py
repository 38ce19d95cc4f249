"""Rectification: how many gradients a moving average is worth, and the step sizes that follow from it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.hyperparameters import number_field
from gradtx._core.moments import SecondMoment
from gradtx._core.safe import safe_divide
from gradtx._core.schedule import Schedule
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.moments import ema_second_moment

Slots = dict[str, jax.Array]
AGE = "age"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SecondMomentOfLength(SecondMoment):
    r"""A second moment that knows how many gradients it is worth.

    Attributes:
        length: scalar, $\rho_t$.
        rectifier: scalar, $r_t$; 0 where $\rho_t$ or its limit is at most 4, and the variance unbounded.
    """

    length: jax.Array | None = None
    rectifier: jax.Array | None = None


class ema_second_moment_of_length(ema_second_moment):
    r"""Estimate the second moment as `ema_second_moment` does, and how many gradients the average is worth.

    $$\rho_t = \rho_\infty - \frac{2 t b_2^t}{1 - b_2^t}, \qquad \rho_\infty = \frac{2}{1 - b_2} - 1$$

    is the length of the simple average of the same mean age: $\rho_t = 2 a_t - 1$, where this step's gradient has the age
    1 and $a_t = 1 + (1 - q_t) a_{t-1}$ with its share $q_t$ in the average. A scheduled decay takes that recurrence, and
    $\rho_\infty$ from the decay of the step. A constant one has the closed form above, which cancels for small $t$ and is
    computed from $s = (1 - b_2) / (1 + b_2) = 1 / \rho_\infty$ and $y = t \operatorname{artanh} s$ as

    $$\rho_t = \left(\frac1s - \frac{1}{\operatorname{artanh} s}\right) + t \left(1 - \coth y + \frac1y\right)$$

    with series for either part where it is small.

    Args:
        b2: the decay $b_2$ in [0, 1); may be a schedule.
        initial: $v_0 \ge 0$.

    State:
        `nu`: real, like the parameters. `weight`: float[3] and `age`: float[2] (the sum of two floats), only if the
        decay is a schedule.

    Source:
        Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv:1908.03265, equation 5 and
        section 4.
    """

    def slots(self) -> tuple[Slot, ...]:
        age = (Slot(AGE, role="scalar", shape=(2,)),) if isinstance(self.b2, Schedule) else ()
        return (*super().slots(), *age)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        numbers, memory = super().scalars(step)
        complement = step.complement(self.b2)
        if isinstance(self.b2, Schedule):
            high, low = step.memory[AGE]
            change = 1 - numbers["rate"] * high - numbers["rate"] * low + low
            change = jnp.where(numbers["weight"] == 0, 0, change)
            age = high + change
            memory = {**memory, AGE: jnp.stack([age, change - (age - high)])}
            high, low = 2 * age - 1, 2 * memory[AGE][1]
        else:
            high, low = _length(step.t, complement)
        return {**numbers, "length": high + low, "rectifier": _rectifier(high, low, complement)}, memory

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        second = SecondMomentOfLength(slots["nu"], s.weight, s.initial * s.left, length=s.length, rectifier=s.rectifier)
        return signal.replace(second=second)


class scale_by_rectified_rms(Leafwise):
    r"""Divide the update by the root of the second moment, and rectify the variance that few gradients leave in it.

    $$u \leftarrow \begin{cases} r_t\, u \,/\, (\sqrt{v + \epsilon_{\text{root}}} + \epsilon) & \rho_t \ge \text{threshold} \\
    u & \text{otherwise} \end{cases} \qquad
    r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}}$$

    With $\rho_\infty \le 4$, which is $b_2 \le 0.6$, the update is never divided.

    Args:
        eps: $\epsilon \ge 0$, added outside the root.
        eps_root: $\epsilon_{\text{root}} \ge 0$, added inside the root.
        threshold: at least 4, below which the variance is infinite. The paper divides beyond 4, its authors' programs
            from 5 on.

    State:
        none.

    Raises:
        ValueError: no `ema_second_moment_of_length` stands before it in its scope.

    Source:
        Liu et al., arXiv:1908.03265, Algorithm 2.
    """

    eps: Any = number_field(default=1e-8, minimum=0.0)
    eps_root: Any = number_field(default=0.0, minimum=0.0)
    threshold: Any = number_field(default=5.0, minimum=4.0)

    requires: ClassVar[tuple[str, ...]] = ("second",)
    ignores_zeros: ClassVar[bool] = True

    def check_place(self, before: dict[str, Any]) -> None:
        if not isinstance(before.get("second"), ema_second_moment_of_length):
            raise ValueError(
                "scale_by_rectified_rms needs the length of the average: estimate the second moment with "
                "ema_second_moment_of_length"
            )
        before["second used"] = self

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        second = signal.second
        if not isinstance(second, SecondMomentOfLength):
            raise ValueError(
                "scale_by_rectified_rms belongs behind ema_second_moment_of_length: another stage has replaced the "
                "second moment since"
            )
        assert second.length is not None
        assert second.rectifier is not None
        divided = second.rectifier * safe_divide(signal.update, second.root(s.eps_root) + s.eps)
        divides = (second.length >= s.threshold) & (second.rectifier > 0)
        return signal.write(jnp.where(divides, divided, signal.update))


def _length(t: jax.Array, complement: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""$\rho_t$ of a constant decay as the sum of two floats; see `ema_second_moment_of_length`."""
    # The series end where the closed forms, whose parts are of size 1/s and 1/y, have lost as much as they leave out.
    small_s, small_y = (0.1, 0.125) if complement.dtype == jnp.float64 else (0.25, 1.0)
    s = complement / (2 - complement)
    largest = 1 - np.finfo(complement.dtype).epsneg
    artanh = -jnp.log1p(-jnp.minimum(complement, largest)) / 2
    small = s < small_s
    closed = 1 / jnp.where(small, 1, s) - 1 / jnp.where(small, 1, artanh)
    of_limit = jnp.where(small, _odd_series(s, _ONE_OVER_ARTANH), closed)
    y = t * artanh
    small = y < small_y
    far = jnp.where(small, 1, y)
    closed = 1 / far - 2 / jnp.expm1(jnp.minimum(2 * far, 64))
    missing = of_limit - t * _odd_series(jnp.where(small, y, 0), _LANGEVIN)
    return jnp.where(small, t, of_limit + t * closed), jnp.where(small, missing, 0)


def _rectifier(high: jax.Array, low: jax.Array, complement: jax.Array) -> jax.Array:
    """$r_t$ of the length `high + low`, 0 where it does not exist."""
    s = complement / (2 - complement)
    exists = (s < 0.25) & ((high - 4) + low > 0)
    high, low, s = (jnp.where(exists, x, y) for x, y in ((high, 5), (low, 0), (s, 0.1)))
    square = ((high - 4) + low) * ((high - 2) + low) / (high + low) * (s / ((1 - 4 * s) * (1 - 2 * s)))
    return jnp.where(exists, jnp.sqrt(square), 0)


def _odd_series(x: jax.Array, coefficients: tuple[float, ...]) -> jax.Array:
    """`x * (c[0] + c[1] x**2 + ...)`."""
    square, total = x * x, jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * square + coefficient
    return x * total


# 1/s - 1/artanh(s), and coth(y) - 1/y.
_ONE_OVER_ARTANH = (
    1 / 3,
    4 / 45,
    44 / 945,
    428 / 14175,
    10196 / 467775,
    10719068 / 638512875,
    0.013502765051265932,
    0.011203745637718733,
    0.009516073194527899,
)
_LANGEVIN = (
    1 / 3,
    -1 / 45,
    2 / 945,
    -1 / 4725,
    2 / 93555,
    -1382 / 638512875,
    4 / 18243225,
    -3617 / 162820783125,
)
