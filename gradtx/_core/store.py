"""The slots of one leaf while a program runs: decoded where they are read, encoded where they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes, random_bits
from gradtx._core.storage import CodecError, PlacedUnit, decoded_values, encoded

Arrays = dict[str, jax.Array]
_KINDS: dict[str, Any] = {"murmur": random_bits.murmur, "weyl": random_bits.weyl}


class Store:
    """What each stage keeps for one leaf.

    A value that is stored is used as stored: `now` decodes what `put` encoded, so that what a step used and what the
    next one reads are one array in memory.

    Args:
        units: the codecs that keep slots of this leaf.
        stored: for each stage its arrays as the state has them.
        numbers: for each stage its numbers, with those of the codecs.
        compute: the dtype of the arithmetic.
        shape: of the leaf.
        place: `count` and `leaf`, on which random bits depend.
    """

    def __init__(
        self,
        units: tuple[PlacedUnit, ...],
        stored: tuple[Arrays, ...],
        numbers: list[Any],
        compute: np.dtype,
        shape: tuple[int, ...],
        place: Arrays,
    ):
        self._units = units
        self._shape, self._place, self._numbers, self._compute = shape, place, numbers, compute
        self._arrays = [dict(arrays) for arrays in stored]
        parts = {(u.home, name) for u in units for _, name in u.arrays}
        self._before: list[Arrays] = [
            {name: decoded(x, compute) for name, x in arrays.items() if (i, name) not in parts}
            for i, arrays in enumerate(stored)
        ]
        for unit in units:
            self._decode(unit, "before", self._before)
        self._now = [dict(values) for values in self._before]
        self._written: set[int] = set()

    def with_partners(self, run: list[int]) -> list[int]:
        """Which stages of a run are still to accumulate, and those whose slots are kept together with theirs."""
        partners = {i for u in self._units for i, _ in u.members if any(k in run for k, _ in u.members)}
        return [i for i in sorted({*run, *partners}) if i not in self._written]

    def before(self, stage: int) -> Arrays:
        """The slots of a stage as they were before the step."""
        return dict(self._before[stage])

    def put(self, stage: int, values: Arrays) -> None:
        """Write the slots of a stage."""
        self._written.add(stage)
        self._now[stage] = dict(values)
        coded = {(i, name) for u in self._units for i, name in u.members}
        for name, value in values.items():
            if (stage, name) not in coded:
                self._arrays[stage][name] = dtypes.narrowed(value, self._arrays[stage][name].dtype)
                self._now[stage][name] = decoded(self._arrays[stage][name], self._compute)
        for unit in self._units:
            owners = {i for i, _ in unit.members}
            if stage in owners and owners <= self._written:
                self._encode(unit)

    def now(self, stage: int) -> Arrays:
        """The slots of a stage as they are stored now."""
        return dict(self._now[stage])

    def stored(self) -> tuple[Arrays, ...]:
        """For each stage its arrays as the state shall have them."""
        return tuple(self._arrays)

    def _encode(self, unit: PlacedUnit) -> None:
        values = tuple(self._now[i][name] for i, name in unit.members)
        with jax.named_scope(f"encode_{type(unit.codec).__name__}"):
            keys, numbers = [key for key, _ in unit.arrays], unit.numbers(self._numbers[unit.home], "now")
            new = encoded(unit.codec, keys, values, numbers, self._bits(unit))
        home = self._arrays[unit.home]
        for key, name in unit.arrays:
            if new[key].shape != home[name].shape or new[key].dtype != home[name].dtype:
                raise CodecError(
                    f"{unit.codec!r}.encode: part {key!r}: expected {home[name].dtype}{list(home[name].shape)}, "
                    f"got {new[key].dtype}{list(new[key].shape)}"
                )
            home[name] = new[key]
        self._decode(unit, "now", self._now)

    def _decode(self, unit: PlacedUnit, when: str, into: list[Arrays]) -> None:
        parts = {key: self._arrays[unit.home][name] for key, name in unit.arrays}
        with jax.named_scope(f"decode_{type(unit.codec).__name__}"):
            names, numbers = [name for _, name in unit.members], unit.numbers(self._numbers[unit.home], when)
            values = decoded_values(unit.codec, names, parts, numbers, self._shape)
        for (i, name), value in zip(unit.members, values, strict=True):
            into[i][name] = value

    def _bits(self, unit: PlacedUnit) -> Callable[[str], jax.Array]:
        def draw(kind: str) -> jax.Array:
            seed = unit.codec.seed ^ (unit.number << 32)
            return _KINDS[kind](seed, self._place["count"], self._place["leaf"], self._shape)

        return draw


def decoded(array: jax.Array, compute: np.dtype) -> jax.Array:
    """A stored array in the dtype of the arithmetic; integers (random keys, say) as they are."""
    if not dtypes.is_inexact(array.dtype):
        return array
    return dtypes.cast(array, compute if jnp.iscomplexobj(array) else dtypes.real_dtype(compute))
