"""Schedules are data too: `count -> value` as a frozen dataclass that compares, hashes, pickles and prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from gradtx._core.spec import Spec


class Schedule(Spec):
    """A function of the number of completed steps (int32 scalar, 0 at the first step) to a scalar.

    Subclass it and write `__call__`. Fields declared as numbers are pytree leaves, so a step that takes the
    transform as an argument does not compile again for another value; the other fields are static.
    """

    def __call__(self, count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        """The value for the step that follows `count` completed ones."""
        raise NotImplementedError


class ForeignSchedule(Schedule):
    """Any callable `count -> value`. Compares by the identity of the callable, but for functions that must do the same."""

    function: Callable[[Any], Any]

    def __call__(self, count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        return self.function(count)

    def __reduce__(self) -> tuple[Any, ...]:
        if "<locals>" in getattr(self.function, "__qualname__", "<locals>"):
            raise TypeError(
                f"cannot pickle the schedule {self.function!r}: a closure has no importable name. "
                "Use a schedule from gradtx.schedules, or a function defined at the top of a module"
            )
        return super().__reduce__()

    def _expression(self) -> str:
        return getattr(self.function, "__qualname__", None) or repr(self.function)
