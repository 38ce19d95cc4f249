"""How slots are kept: the contract of a codec, and a codec at work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes
from gradtx._core.slots import Slot, initial_array
from gradtx._core.spec import Spec

Array = jax.Array
Arrays = dict[str, jax.Array]


class Codec(Spec):
    """How one slot, or several together, are kept. An optimizer's arithmetic never sees it.

    Values are float32. A part is an array of state: what is written after a step and read before the next one. Its
    declaration says its shape, its sharding and its bytes. Where a part is all zeros, as in a fresh state, it stands for
    zeros.

    Attributes:
        covers: the number of slots that it keeps together.
        randomized: whether it rounds stochastically.
        ignores_zeros: whether zeros at the end of a slot, along any axis, are zeros again when read, change nothing else, and
            make the parts longer at their ends; if it is `randomized`, along the first axis.
        min_size: leaves with fewer elements stay as they are.
        seed: of the random bits, if it draws some.
    """

    covers: ClassVar[int] = 1
    randomized: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = False

    min_size: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("min_size", "seed")

    def _check_counts(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{type(self).__name__}({name}=...): expected an integer >= 0, got {value!r}")

    def parts(self, slots: tuple[Slot, ...]) -> dict[str, Slot]:
        """What is kept in place of the slots: a declaration for each part, by the codec's own name for it."""
        raise NotImplementedError

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of this shape is kept this way at all; else its slots stay as they are."""
        return int(np.prod(shape)) >= self.min_size

    def _expression(self) -> str:
        prefix = "storage." if type(self).__module__.startswith("gradtx.") else ""
        return prefix + super()._expression()

    def check(self, slots: tuple[Slot, ...], compute: np.dtype) -> None:
        """Raise a TypeError that says what would fit, if it cannot hold these slots.

        Args:
            slots: what it is to keep.
            compute: the dtype of the arithmetic for the parameter.
        """
        for slot in slots:
            if slot.dtype_for is not None:
                raise TypeError(
                    f"slot {slot.name!r} holds what rounding takes from parameters, and cannot be kept as {self!r}; leave it "
                    "as it is"
                )
            if slot.dtype is not None and not dtypes.is_inexact(slot.dtype):
                raise TypeError(
                    f"slot {slot.name!r} holds {slot.dtype.name} and cannot be kept as {self!r}; leave it as it is"
                )
            if jnp.issubdtype(compute, jnp.complexfloating) and not slot.real:
                raise TypeError(
                    f"slot {slot.name!r} is complex here and cannot be kept as {self!r} without losing its imaginary part; "
                    f"expected 'float32', which keeps {compute.name}"
                )
            if dtypes.real_dtype(compute) == np.float64:
                raise TypeError(
                    f"slot {slot.name!r} is float64 here and would be narrowed by {self!r}; expected 'float32', which keeps "
                    "the dtype of the arithmetic, or float32 parameters"
                )

    def scalars(self, memory: Arrays, rates: tuple[Array | None, ...]) -> Arrays:
        """The new value of each `"scalar"` part for this step.

        Args:
            memory: their values of the last step; zeros before the first.
            rates: for each slot the share of this step's input in its average, or None if it is no average.
        """
        return {}

    def encode(self, values: tuple[Array, ...], numbers: Arrays, bits: Callable[[str], Array]) -> Arrays:
        """The parts (without the `"scalar"` ones) that stand for these values.

        Args:
            values: float32, of the slots in their order.
            numbers: the `"scalar"` parts of this step.
            bits: random bits, uint32, of the values' shape: `"murmur"` or `"weyl"`.
        """
        raise NotImplementedError

    def decode(self, parts: Arrays, numbers: Arrays, shape: tuple[int, ...]) -> tuple[Array, ...]:
        """The values that the parts stand for, float32.

        Args:
            parts: what `encode` returned.
            numbers: the `"scalar"` parts that it was given.
            shape: of the values.
        """
        raise NotImplementedError


class CodecError(ValueError):
    """A codec does not do what it declares."""


def encoded(
    codec: Codec, keys: list[str], values: tuple[Array, ...], numbers: Arrays, bits: Callable[[str], Array]
) -> Arrays:
    """What a codec makes of values, checked: its parts, by name."""
    new = codec.encode(values, numbers, bits)
    if not isinstance(new, dict) or set(new) != set(keys):
        got = sorted(new) if isinstance(new, dict) else f"one {type(new).__name__}"
        raise CodecError(f"{codec!r}.encode: expected the parts {sorted(keys)}, got {got}")
    for key, part in new.items():
        if not hasattr(part, "dtype"):
            raise CodecError(f"{codec!r}.encode: part {key!r}: expected an array, got one {type(part).__name__}")
    return new


def decoded_values(
    codec: Codec, names: list[str], parts: Arrays, numbers: Arrays, shape: tuple[int, ...]
) -> tuple[Array, ...]:
    """What the parts of a codec stand for, checked: a value for each slot."""
    values = codec.decode(parts, numbers, shape)
    if not isinstance(values, (tuple, list)) or len(values) != len(names):
        got = f"{len(values)}" if isinstance(values, (tuple, list)) else f"one {type(values).__name__}"
        raise CodecError(
            f"{codec!r}.decode: expected a tuple of {len(names)} arrays, for {', '.join(names)}; got {got}"
        )
    for name, value in zip(names, values, strict=True):
        if jnp.shape(value) != tuple(shape):
            raise CodecError(
                f"{codec!r}.decode: slot {name!r}: expected an array of shape {tuple(shape)}, got {jnp.shape(value)}"
            )
    return tuple(values)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A codec at work: which slots of which stages it keeps, and under which names.

    Attributes:
        codec: the codec.
        members: for each slot the number of its stage in the plan, and its declaration.
        parts: for each part the codec's name for it, and its declaration, named as in the state.
        number: which unit of the chain it is; random bits depend on it.
    """

    codec: Codec
    members: tuple[tuple[int, Slot], ...]
    parts: tuple[tuple[str, Slot], ...]
    number: int

    @property
    def home(self) -> int:
        """The stage whose state has the parts."""
        return self.members[0][0]

    @property
    def arrays(self) -> tuple[tuple[str, Slot], ...]:
        """The parts that each leaf has."""
        return tuple((key, part) for key, part in self.parts if part.role != "scalar")

    @property
    def memory(self) -> tuple[tuple[str, Slot], ...]:
        """The parts that the chain has once."""
        return tuple((key, part) for key, part in self.parts if part.role == "scalar")

    def holds(self, kept: dict[str, Any]) -> bool:
        """Whether these are a leaf's parts, and not its slots as they are (a leaf too small, say)."""
        return all(
            (array := kept.get(part.name)) is not None and getattr(array, "dtype", None) == part.dtype
            for _, part in self.arrays
        )

    def check_held(self, kept: dict[str, Any]) -> None:
        """Raise a ValueError if these are the parts of another codec."""
        for _, part in self.arrays:
            found = getattr(kept.get(part.name), "dtype", None)
            plain = found is None or (part.name in {slot.name for _, slot in self.members} and found == np.float32)
            if not plain and found != part.dtype:
                raise ValueError(
                    f"state slot {part.name!r}: expected {np.dtype(part.dtype).name}, as {self.codec!r} keeps it, got "
                    f"{np.dtype(found).name}; was the state initialized with another storage?"
                )

    def at(self, position: dict[int, int]) -> PlacedUnit:
        """What a leaf program needs to know of it; `position`: from a stage's number to its place in the program."""
        return PlacedUnit(
            self.codec,
            tuple((position[i], slot.name) for i, slot in self.members),
            tuple((key, part.name) for key, part in self.arrays),
            tuple((key, part.name) for key, part in self.memory),
            self.number,
        )


@dataclasses.dataclass(frozen=True)
class PlacedUnit:
    """A unit in a program: stages by their position there, slots and parts by name."""

    codec: Codec
    members: tuple[tuple[int, str], ...]
    arrays: tuple[tuple[str, str], ...]
    memory: tuple[tuple[str, str], ...]
    number: int

    @property
    def home(self) -> int:
        return self.members[0][0]

    def numbers(self, s: Any, when: str) -> Arrays:
        """The `"scalar"` parts among the numbers of the home stage, of the step `"before"` or `"now"`."""
        return {key: getattr(s, number_name(name, when)) for key, name in self.memory}


def number_name(part: str, when: str) -> str:
    """What a `"scalar"` part is called among a stage's numbers."""
    return f"{part} {when}"


def initial_parts(unit: Unit, param: Any) -> dict[str, Any]:
    """What a unit keeps for one parameter before the first step, by the names of its parts."""
    parts = {key: initial_array(part, param, np.dtype(part.dtype)) for key, part in unit.arrays}
    slots = [slot for _, slot in unit.members]
    if any(slot.initial == "parameter" for slot in slots) and not isinstance(param, jax.ShapeDtypeStruct):
        values = tuple(param if slot.initial == "parameter" else jnp.zeros_like(param) for slot in slots)
        values = tuple(dtypes.cast(value, np.dtype(np.float32)) for value in values)
        numbers = {key: jnp.zeros(()) for key, _ in unit.memory}
        parts = encoded(unit.codec, [key for key, _ in unit.arrays], values, numbers, nearest(jnp.shape(param)))
    return {part.name: parts[key] for key, part in unit.arrays}


def nearest(shape: tuple[int, ...]) -> Callable[[str], Array]:
    """Bits with which stochastic rounding rounds to nearest."""
    return lambda kind: jnp.full(shape, np.uint32(1 << 31), jnp.uint32)
