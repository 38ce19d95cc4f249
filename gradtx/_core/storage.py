"""How slots are kept: the contract of a codec, and which codec keeps which slot of a chain."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes
from gradtx._core import stages as st
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
        min_size: leaves with fewer elements stay as they are.
        seed: of the random bits, if it draws some.
    """

    covers: ClassVar[int] = 1
    randomized: ClassVar[bool] = False

    min_size: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_size", "seed"):
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
        parts = unit.codec.encode(values, {key: jnp.zeros(()) for key, _ in unit.memory}, nearest(jnp.shape(param)))
    return {part.name: parts[key] for key, part in unit.arrays}


def nearest(shape: tuple[int, ...]) -> Callable[[str], Array]:
    """Bits with which stochastic rounding rounds to nearest."""
    return lambda kind: jnp.full(shape, np.uint32(1 << 31), jnp.uint32)


MOMENTS = "moments"
PARAMETER = "parameter"


class Rules(Spec):
    """Which codec keeps which slot.

    Attributes:
        by_name: pairs of a slot's name and a codec, or None for "as it is"; `"moments"` is the pair `mu` and `nu` of one
            scope, and `"parameter"` every slot that mirrors its parameter.
        averages: the codec of running averages that no name speaks of.
        shown: what the user wrote.
        addressed: they are no hyperparameters.
    """

    addressed: ClassVar[bool] = False

    by_name: tuple[tuple[str, Codec | None], ...] = ()
    averages: Codec | None = None
    shown: str = ""

    def _expression(self) -> str:
        return self.shown

    def joint(self) -> tuple[Codec | None] | None:
        """The codec of both moments of a scope, in a tuple; None: these rules say nothing of them together."""
        named = dict(self.by_name)
        return (named[MOMENTS],) if MOMENTS in named else None

    def of(self, slot: Slot) -> tuple[Codec | None] | None:
        """The codec of one slot, in a tuple; None: these rules say nothing of it."""
        if slot.role == "scalar":
            return None
        named = dict(self.by_name)
        if slot.name in named:
            return (named[slot.name],)
        if slot.name in ("mu", "nu") and self.joint() == (None,):
            return (None,)
        if slot.role == "parameter" and slot.dtype_for is None and PARAMETER in named:
            return (named[PARAMETER],)
        if slot.rate is not None and slot.dtype is None and slot.role == "parameter" and self.averages is not None:
            return (self.averages,)
        return None


def units_of(stages: list[st.Stage], rules: list[tuple[Rules, ...]]) -> tuple[Unit, ...]:
    """Which codecs are at work in a chain.

    Args:
        stages: in the order they run, scopes between markers.
        rules: for each stage the rules it stands under, from the inside out.
    """
    slots = [{slot.name: slot for slot in stage.slots()} for stage in stages]
    found: list[tuple[Codec, tuple[tuple[int, Slot], ...]]] = []
    for i, mine in enumerate(rules):
        first = slots[i].get("mu")
        if first is None or not _is_average(first):
            continue
        (joint,) = next((r.joint() or (None,) for r in mine if r.joint() or r.of(first)), (None,))
        if joint is None:
            continue
        partners = (k for k in _within_reach(stages, i) if _is_average(slots[k].get("nu")) and rules[k] == mine)
        partner = next(partners, None)
        if partner is not None:
            found.append((joint, ((i, first), (partner, slots[partner]["nu"]))))
    taken = {(i, slot.name) for _, members in found for i, slot in members}
    for i, mine in enumerate(rules):
        for name, slot in slots[i].items():
            answer = next((a for r in mine if (a := r.of(slot)) is not None), None)
            if answer is not None and answer[0] is not None and (i, name) not in taken:
                found.append((answer[0], ((i, slot),)))
    return tuple(_unit(codec, members, number) for number, (codec, members) in enumerate(found))


def _unit(codec: Codec, members: tuple[tuple[int, Slot], ...], number: int) -> Unit:
    slots = tuple(slot for _, slot in members)
    parts = codec.parts(slots)
    for key, part in parts.items():
        if part.dtype is None or (part.dtype == np.float32 and part.name in {slot.name for slot in slots}):
            raise ValueError(
                f"{codec!r}.parts: part {key!r}: expected a dtype, and for float32 a name other than the slot's "
                f"{part.name!r}: leaves that are too small keep the slot itself under that name"
            )
    return Unit(codec, members, tuple(parts.items()), number)


def _is_average(slot: Slot | None) -> bool:
    return slot is not None and slot.role == "parameter" and slot.rate is not None and slot.dtype is None


def _within_reach(stages: list[st.Stage], first: int) -> list[int]:
    """The stages whose moments are known together with those of another: of one scope, and the same gradient."""
    reach = [first]
    if not getattr(stages[first], "estimates", None):
        return reach
    for step in (1, -1):
        i = first + step
        while 0 <= i < len(stages):
            stage = stages[i]
            if not isinstance(stage, st.Leafwise) or not (stage.estimates or stage.passes_gradient):
                break
            if stage.estimates:
                reach.append(i)
            i += step
    return reach
