"""Schedules of one line or curve, and of one after a warm-up."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import leaf_field
from gradtx._core.schedule import Schedule
from gradtx.schedules._interpolation import between, cosine, count_array, floating, power_of, powered, shares
from gradtx.schedules._lengths import positive

Scalar = jax.typing.ArrayLike


class constant_schedule(Schedule):
    """`value` at every step. (A plain number does the same.)"""

    value: Any = leaf_field()

    def __call__(self, count: Scalar) -> Scalar:
        return self.value


class linear_schedule(Schedule):
    """From `init_value` to `end_value` in a straight line over `transition_steps`, after `transition_begin` steps."""

    init_value: Any = leaf_field()
    end_value: Any = leaf_field()
    transition_steps: int
    transition_begin: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "transition_steps")

    def __call__(self, count: Scalar) -> Scalar:
        return between(self.init_value, self.end_value, shares(count, self.transition_steps, self.transition_begin))


class power_schedule(Schedule):
    """The number of completed steps to a power: `count ** power`, 0 at the first step."""

    power: Any = leaf_field(minimum=0.0)

    def __call__(self, count: Scalar) -> Scalar:
        count = floating(count)
        started = count > 0
        return jnp.where(started, jnp.power(jnp.where(started, count, 1), floating(self.power)), 0)


class polynomial_schedule(Schedule):
    """From `init_value` to `end_value` along `(1 - t / transition_steps) ** power`."""

    init_value: Any = leaf_field()
    end_value: Any = leaf_field()
    power: Any = leaf_field()
    transition_steps: int
    transition_begin: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "transition_steps")

    def __call__(self, count: Scalar) -> Scalar:
        straight = shares(count, self.transition_steps, self.transition_begin)
        return between(self.init_value, self.end_value, powered(straight, self.power))


class exponential_decay(Schedule):
    """`init_value * decay_rate ** (t / transition_steps)`, bounded by `end_value` if given.

    Args:
        init_value: the value until `transition_begin`.
        transition_steps: the steps in which it falls (or rises) by `decay_rate`.
        decay_rate: a number > 0.
        transition_begin: the steps before it begins.
        staircase: only whole multiples of `transition_steps` count.
        end_value: the bound from below (from above for a rate of at least 1).
    """

    init_value: Any = leaf_field()
    transition_steps: int
    decay_rate: float
    transition_begin: int = 0
    staircase: bool = False
    end_value: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "transition_steps")
        if not self.decay_rate > 0:
            raise ValueError(f"exponential_decay(decay_rate=...): expected a number > 0, got {self.decay_rate!r}")

    def __call__(self, count: Scalar) -> Scalar:
        since = jnp.maximum(count_array(count) - self.transition_begin, 0)
        steps = self.transition_steps
        factor = (
            power_of(self.decay_rate, since // steps, 1) if self.staircase else power_of(self.decay_rate, since, steps)
        )
        value = floating(self.init_value) * factor
        if self.end_value is None:
            return value
        return (jnp.maximum if self.decay_rate < 1.0 else jnp.minimum)(value, floating(self.end_value))


class cosine_decay_schedule(Schedule):
    """From `init_value` to `alpha * init_value` along half a cosine, raised to `exponent`.

    Source: Loshchilov & Hutter, "SGDR", arXiv:1608.03983, equation 5 with one period.
    """

    init_value: Any = leaf_field()
    decay_steps: int
    alpha: Any = leaf_field(default=0.0)
    exponent: Any = leaf_field(default=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "decay_steps")

    def __call__(self, count: Scalar) -> Scalar:
        along = powered(cosine(shares(count, self.decay_steps)), self.exponent)
        return floating(self.init_value) * between(1.0, self.alpha, along)


class warmup_constant_schedule(Schedule):
    """From `init_value` to `peak_value` in a straight line, and constant from there."""

    init_value: Any = leaf_field()
    peak_value: Any = leaf_field()
    warmup_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "warmup_steps")

    def __call__(self, count: Scalar) -> Scalar:
        return between(self.init_value, self.peak_value, shares(count, self.warmup_steps))


class warmup_cosine_decay_schedule(Schedule):
    """A straight line from `init_value` to `peak_value`, then half a cosine to `end_value`.

    `decay_steps` is the length of the whole schedule, warm-up included, as in Optax.
    """

    init_value: Any = leaf_field()
    peak_value: Any = leaf_field()
    warmup_steps: int
    decay_steps: int
    end_value: Any = leaf_field(default=0.0)
    exponent: Any = leaf_field(default=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("warmup_steps", "decay_steps"):
            if getattr(self, name):
                positive(self, name)
        if not 0 <= self.warmup_steps < self.decay_steps:
            raise ValueError(
                f"warmup_cosine_decay_schedule: expected 0 <= warmup_steps < decay_steps, got {self.warmup_steps} and "
                f"{self.decay_steps}"
            )

    def __call__(self, count: Scalar) -> Scalar:
        at, peak = count_array(count), floating(self.peak_value)
        along = powered(cosine(shares(at - self.warmup_steps, self.decay_steps - self.warmup_steps)), self.exponent)
        end = jnp.where(peak == 0, 0, floating(self.end_value))  # a share of the peak, as in Optax
        decay = between(peak, end, along)
        if self.warmup_steps == 0:
            return decay
        warmup = between(self.init_value, peak, shares(at, self.warmup_steps))
        return jnp.where(at < self.warmup_steps, warmup, decay)


class warmup_exponential_decay_schedule(Schedule):
    """A straight line from `init_value` to `peak_value`, then an exponential decay; see `exponential_decay`."""

    init_value: Any = leaf_field()
    peak_value: Any = leaf_field()
    warmup_steps: int
    transition_steps: int
    decay_rate: float
    transition_begin: int = 0
    staircase: bool = False
    end_value: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("warmup_steps", "transition_steps"):
            positive(self, name)
        self._decay()

    def _decay(self) -> exponential_decay:
        return exponential_decay(
            self.peak_value,
            self.transition_steps,
            self.decay_rate,
            self.transition_begin,
            self.staircase,
            self.end_value,
        )

    def __call__(self, count: Scalar) -> Scalar:
        at = count_array(count)
        warmup = between(self.init_value, self.peak_value, shares(at, self.warmup_steps))
        return jnp.where(at < self.warmup_steps, warmup, self._decay()(at - self.warmup_steps))
