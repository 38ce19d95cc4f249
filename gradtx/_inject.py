"""Hyperparameters kept in the state, for frameworks that hold the transformation itself static."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import addresses
from gradtx._core.dtypes import scalar_dtype
from gradtx._core.hyperparameters import Decay, stage_field
from gradtx._core.schedule import Schedule
from gradtx._core.transform import Transform


class InjectState(NamedTuple):
    """A state that holds the hyperparameters.

    Attributes:
        hyperparams: `{address: scalar}`, float32 (float64 under x64): read them, or set them for the next step.
        inner: the state of the transformation inside.
    """

    hyperparams: dict[str, jax.Array]
    inner: Any


class InjectedHyperparams(Transform):
    """A transformation whose numbers live in its state. Build it with `inject_hyperparams`."""

    held: ClassVar[tuple[str, ...]] = ("inner",)
    built_by: ClassVar[str] = "inject_hyperparams"
    ignores_zeros: ClassVar[bool] = True

    transforms: tuple[Any, ...] = stage_field()

    @property
    def tx(self) -> Transform:
        """The transformation inside."""
        return self.transforms[0]

    def init(self, params: Any) -> InjectState:
        inner = self.tx.init(params)
        count = jax.tree.leaves(inner)[0]
        sharding = getattr(count, "sharding", None) if _is_placed(count) else None
        numbers = {}
        for name, place in numbers_of(self.tx).items():
            number = _number(place.value)
            if isinstance(number, float):
                number = jax.device_put(np.asarray(number, scalar_dtype()), sharding)
            numbers[name] = jnp.asarray(number, scalar_dtype())
        return InjectState(numbers, inner)

    def update(self, updates: Any, state: InjectState, params: Any = None, **extra: Any) -> tuple[Any, InjectState]:
        table = numbers_of(self.tx)
        if set(state.hyperparams) != set(table):
            self._explain(set(state.hyperparams), set(table))
        tx: Any = self.tx
        for name, place in table.items():
            tx = addresses.put_leaf(tx, place.way, _merged(place.value, state.hyperparams[name], name))
        new_updates, inner = tx.update(updates, state.inner, params, **extra)
        return new_updates, InjectState(dict(state.hyperparams), inner)

    def replace(self, changes: Any = None, /, **by_name: Any) -> Self:
        """Refused: the numbers live in the state, where a running optimizer reads them."""
        return self._with_replaced()

    def _with_replaced(self, **changes: Any) -> Self:
        raise TypeError(
            "inject_hyperparams keeps its numbers in the state: set state.hyperparams[...], or build another one with "
            "inject_hyperparams(tx.tx.replace(...)) and init it"
        )

    def _explain(self, got: set[str], expected: set[str]) -> None:
        table = addresses.addresses(self.tx)
        for name in sorted(got - expected):
            if name in table and isinstance(table[name].value, Schedule):
                raise ValueError(
                    f"state.hyperparams[{name!r}] was set, but {name} follows the schedule {table[name].value!r}, which "
                    "would overwrite it; build the transformation with a number to set it from outside"
                )
        raise ValueError(f"state.hyperparams: expected the names {sorted(expected)}, got {sorted(got)}")

    def _expression(self) -> str:
        return f"inject_hyperparams({self.tx!r})"


def inject_hyperparams(tx: Transform) -> InjectedHyperparams:
    """Keep the numeric hyperparameters of a transformation in its state.

    In gradtx a transformation is data already, so a jitted step may take it as an argument. Frameworks that hold it
    static (flax's TrainState, nnx.Optimizer) cannot: for them the numbers move into `state.hyperparams`, a dict by
    address, where they can be read and set without a second trace. They are float32 whatever the parameters are.
    Schedules stay schedules of the step count, and are not in the dict.

    Args:
        tx: a gradtx transformation. (Optax's function of this name takes a factory.)

    Raises:
        TypeError: `tx` is not one.
        ValueError: from `update`, if a name was set that the transformation does not keep in the state.
    """
    if not isinstance(tx, Transform) or isinstance(tx, InjectedHyperparams):
        hint = "; call the factory first: inject_hyperparams(adamw(1e-3))" if callable(tx) else ""
        raise TypeError(f"inject_hyperparams: expected a gradtx transformation, got {tx!r}{hint}")
    return InjectedHyperparams((tx,))


def numbers_of(tx: Transform) -> dict[str, addresses.Place]:
    """The numbers of a transformation that move into the state, by address; schedules stay where they are."""
    table = addresses.addresses(tx, numeric_only=True)
    return {
        name: place
        for name, place in table.items()
        if place.value is not None and not place.in_schedule and not isinstance(place.value, Schedule)
    }


def _is_placed(x: Any) -> bool:
    """Whether this is a concrete array that was put on a device on purpose."""
    return isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) and x.committed


def _number(value: Any) -> Any:
    return value.value if isinstance(value, Decay) else value


def _merged(original: Any, held: Any, name: str) -> Any:
    """What the state holds, in the form of the field it came from."""
    held = jnp.asarray(held)
    if held.ndim or not jnp.issubdtype(held.dtype, jnp.floating) or jnp.finfo(held.dtype).bits < 32:
        raise TypeError(
            f"state.hyperparams[{name!r}]: expected a scalar of at least float32, got {held.dtype}{list(held.shape)}"
        )
    if not isinstance(original, Decay):
        return held
    # A decay that nobody changed keeps the digits of its complement, which 1 - float32(b) has lost.
    untouched = held == jnp.asarray(original.value, held.dtype)
    return Decay(jnp.where(untouched, jnp.asarray(original.complement, held.dtype), 1 - held))
