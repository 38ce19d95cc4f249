"""Hyperparameters: numbers, decays kept as their complement, schedules; checked where a person writes them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

MISSING = dataclasses.MISSING

# What a hyperparameter may be: a number, an array of one (or of a population, under vmap), or `count -> value`.
type_of_number = float | int | np.ndarray | np.generic | jax.Array | Callable[[Any], Any]


@jax.tree_util.register_pytree_with_keys_class
class Decay:
    """A decay rate `b` in [0, 1), kept as the complement `1 - b`.

    The complement is computed in Python floats, so nothing is lost when it becomes a float32: `1 - float32(0.999)`
    is already wrong by 1.3e-5. `value`, `float()` and printing give `b` back, and arithmetic takes it as a number
    (`1 - decay` is the complement itself).
    """

    __slots__ = ("complement",)

    def __init__(self, complement: Any):
        self.complement = complement

    @property
    def value(self) -> Any:
        """The decay rate itself."""
        if isinstance(self.complement, float):
            # The shortest decimal with this complement: what the user wrote.
            shortest = (float(f"{1.0 - self.complement:.{digits}g}") for digits in (15, 16, 17))
            return next((b for b in shortest if 1.0 - b == self.complement), 1.0 - self.complement)
        # Anything but a number is a stand-in that somebody put into the tree.
        return 1 - self.complement if hasattr(self.complement, "dtype") else self.complement

    def __float__(self) -> float:
        return float(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value, dtype)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else repr(self)

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.value, digits)

    def __neg__(self) -> Any:
        return -self.value

    def __add__(self, other: Any) -> Any:
        return self.value + other

    def __sub__(self, other: Any) -> Any:
        return self.value - other

    def __rsub__(self, other: Any) -> Any:
        return self.complement if isinstance(other, (int, float)) and other == 1 else other - self.value

    def __mul__(self, other: Any) -> Any:
        return self.value * other

    def __truediv__(self, other: Any) -> Any:
        return self.value / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self.value

    def __pow__(self, other: Any) -> Any:
        return self.value**other

    __radd__, __rmul__ = __add__, __mul__

    def __lt__(self, other: Any) -> Any:
        return self.value < (other.value if isinstance(other, Decay) else other)

    def __le__(self, other: Any) -> Any:
        return self.value <= (other.value if isinstance(other, Decay) else other)

    def __gt__(self, other: Any) -> Any:
        return self.value > (other.value if isinstance(other, Decay) else other)

    def __ge__(self, other: Any) -> Any:
        return self.value >= (other.value if isinstance(other, Decay) else other)

    def __repr__(self) -> str:
        return show_number(self.value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Decay):
            other = other.complement
            mine = self.complement
        else:
            mine = self.value
        return mine is other or (isinstance(mine, float) and isinstance(other, (int, float)) and mine == other)

    def __hash__(self) -> int:
        return hash(self.value) if isinstance(self.complement, float) else id(self.complement)

    def tree_flatten_with_keys(self) -> Any:
        return ((jax.tree_util.GetAttrKey("complement"), self.complement),), None

    def tree_flatten(self) -> Any:
        return (self.complement,), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: Any) -> Decay:
        return cls(*children)


class Field:
    """The declaration of a dataclass field that holds pytree children."""

    default: Any = MISSING

    def normalize(self, value: Any, *, owner: str, name: str) -> Any:
        """The value as it is stored; raises TypeError or ValueError for what does not fit."""
        raise NotImplementedError

    def show(self, value: Any) -> str:
        return repr(value)


@dataclasses.dataclass(frozen=True)
class Number(Field):
    """A real number, an array, or a schedule."""

    default: Any = MISSING
    minimum: float | None = None
    optional: bool = False
    schedulable: bool = True

    def normalize(self, value: Any, *, owner: str, name: str) -> Any:
        where = f"{owner}({name}=...)"
        if value is None and self.optional:
            return None
        value = _number(value, where, schedulable=self.schedulable)
        if isinstance(value, float):
            if math.isnan(value):
                raise ValueError(f"{where}: expected a number, got nan")
            if self.minimum is not None and value < self.minimum:
                raise ValueError(f"{where}: expected a number >= {self.minimum:g}, got {value:g}")
        return value

    def show(self, value: Any) -> str:
        return show_number(value)


@dataclasses.dataclass(frozen=True)
class DecayNumber(Field):
    """A decay rate in [0, 1), an array, or a schedule of one."""

    default: Any = MISSING

    def normalize(self, value: Any, *, owner: str, name: str) -> Any:
        where = f"{owner}({name}=...)"
        if isinstance(value, Decay):
            return value
        value = _number(value, where, schedulable=True)
        if isinstance(value, float):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{where}: expected a decay rate in [0, 1), got {value:g}")
            return Decay(1.0 - value)
        if isinstance(value, (jax.Array, np.ndarray)):
            return Decay(1 - value if isinstance(value, jax.core.Tracer) else _complements(value))
        return value

    def show(self, value: Any) -> str:
        return show_number(value)


@dataclasses.dataclass(frozen=True)
class Stages(Field):
    """A tuple of transforms."""

    def normalize(self, value: Any, *, owner: str, name: str) -> Any:
        return tuple(value)


def number_field(*, default: Any = MISSING, minimum: float | None = None, optional: bool = False) -> Any:
    """Declare a numeric hyperparameter: a pytree leaf, or a schedule.

    Args:
        default: the default; without one the argument is required.
        minimum: the smallest number allowed, checked when a concrete number is given.
        optional: whether None ("not used") is allowed.
    """
    return Number(default, minimum, optional)


def decay_field(*, default: Any = MISSING) -> Any:
    """Declare a decay rate in [0, 1), stored as a `Decay`."""
    return DecayNumber(default)


def leaf_field(*, default: Any = MISSING, minimum: float | None = None) -> Any:
    """Declare a number that cannot itself be a schedule (the fields of schedules)."""
    return Number(default, minimum, False, False)


def stage_field() -> Any:
    """Declare a tuple of transforms."""
    return Stages()


def _number(value: Any, where: str, *, schedulable: bool) -> Any:
    """A Python float for anything concrete and 0-d; arrays, tracers and schedules as they are."""
    from gradtx._core.schedule import ForeignSchedule, Schedule  # the one upward import: schedules hold numbers too

    if isinstance(value, Schedule) or (callable(value) and not isinstance(value, jax.Array)):
        if not schedulable:
            raise TypeError(f"{where}: expected a number, got {value!r}")
        return value if isinstance(value, Schedule) else ForeignSchedule(value)
    if isinstance(value, optax.schedules.StatefulSchedule if hasattr(optax.schedules, "StatefulSchedule") else ()):
        raise TypeError(f"{where}: stateful schedules are not supported; give `count -> value`")
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.generic, np.ndarray, jax.Array)):
        expected = "a number, an array or a schedule" if schedulable else "a number or an array"
        raise TypeError(f"{where}: expected {expected}, got {value!r} of type {type(value).__name__}")
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        dtype = value.dtype
        if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
            raise TypeError(f"{where}: expected a real number, got an array of dtype {dtype}")
        if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
            raise TypeError(
                f"{where}: expected a hyperparameter of at least float32, got {dtype}; in 16 bits 0.999 is 1.0. "
                "optax.inject_hyperparams casts to the parameters' dtype: use gradtx.inject_hyperparams(tx), or "
                "pass hyperparam_dtype=jnp.float32"
            )
        if isinstance(value, jax.core.Tracer) or value.ndim:
            return value
        if dtype == np.float32:
            # The shortest decimal that names this float32: whoever passes float32(0.9) means 0.9.
            return float(str(np.asarray(value)[()]))
    return float(value)


def _complements(decays: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """`1 - b` of an array, as for single numbers: of the shortest decimals that name float32s."""
    if decays.dtype != np.float32:
        return 1 - decays
    flat = [1.0 - float(str(b)) for b in np.asarray(decays).ravel()]
    complements = np.asarray(flat, np.float32).reshape(decays.shape)
    return jnp.asarray(complements) if isinstance(decays, jax.Array) else complements


def show_number(value: Any) -> str:
    """A number as one would type it; arrays by dtype and shape."""
    if isinstance(value, Decay):
        return show_number(value.value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"float('{value}')"
    if isinstance(value, (jax.Array, np.ndarray)) and (value.ndim or isinstance(value, jax.core.Tracer)):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return repr(value)
