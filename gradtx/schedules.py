"""Schedules as data: Optax's functions of the step count, in dataclasses that compare, hash, pickle and print.

Each has Optax's name, arguments and defaults; the value is Optax's own, computed by its function. The numbers that a
schedule interpolates between are pytree leaves, so a step that takes the transform as an argument does not compile
again for other ones; lengths in steps, and rates on whose sign Optax branches, are static.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradtx._core.hyperparameters import leaf_field, stage_field
from gradtx._core.schedule import ForeignSchedule, Schedule
from gradtx._core.spec import StaticTree, fields_of

Scalar = jax.typing.ArrayLike


class OptaxSchedule(Schedule):
    """A schedule whose value is that of Optax's function of the same name, called with the fields in their order."""

    function: ClassVar[Callable[..., Any]]
    lengths: ClassVar[tuple[str, ...]] = ("transition_steps",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.lengths:
            _positive(self, name)
        values = self._arguments()
        if not any(isinstance(value, (jax.Array, np.ndarray)) for value in values):
            self.function(*values)  # what Optax refuses, it refuses now

    def _arguments(self) -> list[Any]:
        values = [getattr(self, field.name) for field in fields_of(self)]
        return [value.tree if isinstance(value, StaticTree) else value for value in values]

    def __call__(self, count: Scalar) -> Scalar:
        return self.function(*self._arguments())(count)


class constant_schedule(OptaxSchedule):
    """`value` at every step. (A plain number does the same.)"""

    value: Any = leaf_field()

    function = staticmethod(optax.constant_schedule)
    lengths = ()


class linear_schedule(OptaxSchedule):
    """From `init_value` to `end_value` in a straight line over `transition_steps`, after `transition_begin` steps."""

    init_value: Any = leaf_field()
    end_value: Any = leaf_field()
    transition_steps: int
    transition_begin: int = 0

    function = staticmethod(optax.linear_schedule)


class polynomial_schedule(OptaxSchedule):
    """From `init_value` to `end_value` along `(1 - t / transition_steps) ** power`."""

    init_value: Any = leaf_field()
    end_value: Any = leaf_field()
    power: Any = leaf_field()
    transition_steps: int
    transition_begin: int = 0

    function = staticmethod(optax.polynomial_schedule)


class exponential_decay(OptaxSchedule):
    """`init_value * decay_rate ** (t / transition_steps)`, bounded by `end_value` if given."""

    init_value: Any = leaf_field()
    transition_steps: int
    decay_rate: float
    transition_begin: int = 0
    staircase: bool = False
    end_value: float | None = None

    function = staticmethod(optax.exponential_decay)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay_rate == 0:
            raise ValueError("exponential_decay(decay_rate=...): expected a number other than 0")


class cosine_decay_schedule(OptaxSchedule):
    """From `init_value` to `alpha * init_value` along half a cosine, raised to `exponent`.

    Source: Loshchilov & Hutter, "SGDR", arXiv:1608.03983, equation 5 with one period.
    """

    init_value: Any = leaf_field()
    decay_steps: int
    alpha: Any = leaf_field(default=0.0)
    exponent: Any = leaf_field(default=1.0)

    function = staticmethod(optax.cosine_decay_schedule)
    lengths = ("decay_steps",)


class warmup_constant_schedule(OptaxSchedule):
    """From `init_value` to `peak_value` in a straight line, and constant from there."""

    init_value: Any = leaf_field()
    peak_value: Any = leaf_field()
    warmup_steps: int

    function = staticmethod(optax.warmup_constant_schedule)
    lengths = ("warmup_steps",)


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
                _positive(self, name)
        if not 0 <= self.warmup_steps < self.decay_steps:
            raise ValueError(
                f"warmup_cosine_decay_schedule: expected 0 <= warmup_steps < decay_steps, got {self.warmup_steps} and "
                f"{self.decay_steps}"
            )

    def __call__(self, count: Scalar) -> Scalar:
        # Optax's own takes the peak's truth, which a traced one does not have; its parts do not.
        peak = jnp.asarray(self.peak_value)
        alpha = jnp.where(peak == 0, 0, self.end_value / jnp.where(peak == 0, 1, peak))
        decay = optax.cosine_decay_schedule(peak, self.decay_steps - self.warmup_steps, alpha, self.exponent)
        if self.warmup_steps == 0:
            return decay(count)
        warmup = optax.linear_schedule(self.init_value, self.peak_value, self.warmup_steps)
        return optax.join_schedules([warmup, decay], [self.warmup_steps])(count)


class warmup_exponential_decay_schedule(OptaxSchedule):
    """A straight line from `init_value` to `peak_value`, then an exponential decay."""

    init_value: Any = leaf_field()
    peak_value: Any = leaf_field()
    warmup_steps: int
    transition_steps: int
    decay_rate: float
    transition_begin: int = 0
    staircase: bool = False
    end_value: float | None = None

    function = staticmethod(optax.warmup_exponential_decay_schedule)
    lengths = ("warmup_steps", "transition_steps")


class piecewise_constant_schedule(OptaxSchedule):
    """`init_value`, multiplied by a scale at each boundary: `{step: scale}`."""

    init_value: Any = leaf_field()
    boundaries_and_scales: Any = None

    function = staticmethod(optax.piecewise_constant_schedule)
    lengths = ()


class piecewise_interpolate_schedule(OptaxSchedule):
    """Between boundaries `{step: scale}` linear or along a cosine (`interpolate_type`)."""

    interpolate_type: str
    init_value: float
    boundaries_and_scales: Any = None

    function = staticmethod(optax.piecewise_interpolate_schedule)
    lengths = ()


class linear_onecycle_schedule(OptaxSchedule):
    """One cycle of straight lines: up to `peak_value`, down, and down again to its end.

    Source: Smith & Topin, "Super-Convergence", arXiv:1708.07120.
    """

    transition_steps: int
    peak_value: float
    pct_start: float = 0.3
    pct_final: float = 0.85
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    function = staticmethod(optax.linear_onecycle_schedule)


class cosine_onecycle_schedule(OptaxSchedule):
    """One cycle of half cosines: up to `peak_value` and down to its end. Source: as for the linear one."""

    transition_steps: int
    peak_value: float
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    function = staticmethod(optax.cosine_onecycle_schedule)


class join_schedules(Schedule):
    """One schedule after another; each is given the count since its boundary."""

    schedules: Any = stage_field()
    boundaries: Any

    def __post_init__(self) -> None:
        boundaries: Sequence[int] = self.boundaries.tree if isinstance(self.boundaries, StaticTree) else self.boundaries
        object.__setattr__(self, "boundaries", tuple(int(b) for b in boundaries))
        wrapped = [s if isinstance(s, Schedule) else _as_schedule(s) for s in self.schedules]
        object.__setattr__(self, "schedules", tuple(wrapped))
        super().__post_init__()
        if len(self.boundaries) != len(self.schedules) - 1:
            raise ValueError(
                f"join_schedules: expected one boundary between each two schedules, got {len(self.schedules)} schedules "
                f"and {len(self.boundaries)} boundaries"
            )

    def __call__(self, count: Scalar) -> Scalar:
        return optax.join_schedules(list(self.schedules), list(self.boundaries))(count)


def sgdr_schedule(cosine_kwargs: Sequence[Mapping[str, Any]]) -> join_schedules:
    """Cosine decays with warm restarts: one `warmup_cosine_decay_schedule` after another, each from its keywords.

    Source: Loshchilov & Hutter, "SGDR", arXiv:1608.03983.
    """
    parts = [warmup_cosine_decay_schedule(**kwargs) for kwargs in cosine_kwargs]
    ends, end = [], 0
    for part in parts:
        end += part.decay_steps
        ends.append(end)
    return join_schedules(parts, ends[:-1])


def _as_schedule(value: Any) -> Schedule:
    return ForeignSchedule(value) if callable(value) else constant_schedule(value)


def _positive(schedule: Schedule, name: str) -> None:
    """Check a length in steps, and keep it as an int."""
    value = getattr(schedule, name)
    where = f"{type(schedule).__name__}({name}=...)"
    try:
        whole = int(value)
    except (TypeError, ValueError):
        whole = None
    if whole is None or isinstance(value, str) or whole != value:
        raise TypeError(f"{where}: expected a whole number of steps, got {value!r} of type {type(value).__name__}")
    if whole <= 0:
        raise ValueError(f"{where}: expected a number of steps > 0, got {value!r}")
    object.__setattr__(schedule, name, whole)
