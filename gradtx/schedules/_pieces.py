"""Schedules of several pieces: between boundaries, one cycle, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from optax import join_schedules as _join

from gradtx._core.hyperparameters import leaf_field, number_field, stage_field
from gradtx._core.schedule import ForeignSchedule, Schedule
from gradtx._core.spec import StaticTree
from gradtx.schedules._decays import constant_schedule, warmup_cosine_decay_schedule
from gradtx.schedules._interpolation import between, cosine, count_array, floating, shares
from gradtx.schedules._lengths import positive

Scalar = jax.typing.ArrayLike


class piecewise_constant_schedule(Schedule):
    """`init_value`, multiplied by a scale at each boundary: `{step: scale}`."""

    init_value: Any = leaf_field()
    boundaries_and_scales: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._points()

    def _points(self) -> tuple[list[int], list[float]]:
        return _points(type(self).__name__, 1.0, _mapping(self.boundaries_and_scales))

    def __call__(self, count: Scalar) -> Scalar:
        at, scale = count_array(count), floating(1.0)
        for boundary, factor in zip(*self._points(), strict=True):
            scale = jnp.where(at < boundary, scale, floating(factor))
        return floating(self.init_value) * scale


class piecewise_interpolate_schedule(Schedule):
    """Between boundaries `{step: scale}` linear or along a cosine (`interpolate_type`); scales multiply up."""

    interpolate_type: str
    init_value: float
    boundaries_and_scales: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interpolate_type not in ("linear", "cosine"):
            raise ValueError(
                "piecewise_interpolate_schedule(interpolate_type=...): expected 'linear' or 'cosine', got "
                f"{self.interpolate_type!r}"
            )
        self._points()

    def _points(self) -> tuple[list[int], list[float]]:
        return _points(type(self).__name__, self.init_value, _mapping(self.boundaries_and_scales))

    def __call__(self, count: Scalar) -> Scalar:
        return _along(self.interpolate_type, count, *self._points())


class linear_onecycle_schedule(Schedule):
    """One cycle of straight lines: up to `peak_value`, down, and down again to its end.

    Source: Smith & Topin, "Super-Convergence", arXiv:1708.07120.
    """

    transition_steps: int
    peak_value: float
    pct_start: float = 0.3
    pct_final: float = 0.85
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "transition_steps")
        self._points()

    def _points(self) -> tuple[list[int], list[float]]:
        scales = {
            int(self.pct_start * self.transition_steps): self.div_factor,
            int(self.pct_final * self.transition_steps): 1 / self.div_factor,
            self.transition_steps: 1 / self.final_div_factor,
        }
        return _points(type(self).__name__, self.peak_value / self.div_factor, scales)

    def __call__(self, count: Scalar) -> Scalar:
        return _along("linear", count, *self._points())


class cosine_onecycle_schedule(Schedule):
    """One cycle of half cosines: up to `peak_value` and down to its end. Source: as for the linear one."""

    transition_steps: int
    peak_value: float
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "transition_steps")
        self._points()

    def _points(self) -> tuple[list[int], list[float]]:
        scales = {
            int(self.pct_start * self.transition_steps): self.div_factor,
            self.transition_steps: 1 / (self.div_factor * self.final_div_factor),
        }
        return _points(type(self).__name__, self.peak_value / self.div_factor, scales)

    def __call__(self, count: Scalar) -> Scalar:
        return _along("cosine", count, *self._points())


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
        return _join(list(self.schedules), list(self.boundaries))(count)


class shifted(Schedule):
    """Another schedule that begins at a later step: until `begin` its first value, from there on it as from step 0."""

    schedule: Any = number_field()
    begin: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            object.__setattr__(self, "schedule", _as_schedule(self.schedule))
        super().__post_init__()
        if not isinstance(self.begin, int) or isinstance(self.begin, bool) or self.begin < 0:
            raise ValueError(f"shifted(begin=...): expected a number of steps >= 0, got {self.begin!r}")

    def __call__(self, count: Scalar) -> Scalar:
        at = count_array(count)
        return self.schedule(jnp.maximum(at - self.begin, 0))


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


def _mapping(scales: Any) -> Mapping[Any, float]:
    return (scales.tree if isinstance(scales, StaticTree) else scales) or {}


def _points(owner: str, start: float, scales: Mapping[Any, float]) -> tuple[list[int], list[float]]:
    """The boundaries, and the value at each, of a schedule that multiplies its value by a scale between any two."""
    boundaries, values = [0], [float(start)]
    for boundary, scale in sorted(scales.items()):
        if int(boundary) != boundary or boundary < 0:
            raise ValueError(f"{owner}: expected boundaries that are numbers of steps >= 0, got {boundary!r}")
        if scale < 0:
            raise ValueError(f"{owner}: expected scales >= 0, got {scale!r} at step {boundary}")
        boundaries.append(int(boundary))
        values.append(values[-1] * float(scale))
    return boundaries, values


def _along(kind: str, count: Scalar, boundaries: list[int], values: list[float]) -> jax.Array:
    at = count_array(count)
    value = jnp.full(at.shape, values[0], floating(0).dtype)
    for begin, end, start, stop in zip(boundaries, boundaries[1:], values, values[1:], strict=False):
        parts = shares(at, max(end - begin, 1), begin)
        line = between(start, stop, cosine(parts) if kind == "cosine" else parts)
        value = jnp.where(at < begin, value, jnp.where(at < end, line, stop).astype(value.dtype))
    return value


def _as_schedule(value: Any) -> Schedule:
    return ForeignSchedule(value) if callable(value) else constant_schedule(value)
