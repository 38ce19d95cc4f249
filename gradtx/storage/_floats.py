"""Slots in 16-bit floats."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.slots import Slot
from gradtx._core.storage import Codec

Array = jax.Array
Arrays = dict[str, jax.Array]


class _Nearest(Codec):
    """A slot in a narrower float, rounded to nearest."""

    def parts(self, slots: tuple[Slot, ...]) -> dict[str, Slot]:
        (slot,) = slots
        return {"value": Slot(slot.name, slot.role, dtype=self._dtype, real=True, shape=slot.shape, axes=slot.axes)}

    @property
    def _dtype(self) -> np.dtype:
        raise NotImplementedError

    def encode(self, values: tuple[Array, ...], numbers: Arrays, bits: Callable[[str], Array]) -> Arrays:
        return {"value": values[0].astype(self._dtype)}

    def decode(self, parts: Arrays, numbers: Arrays, shape: tuple[int, ...]) -> tuple[Array, ...]:
        return (parts["value"].astype(jnp.float32),)


class bfloat16(_Nearest):
    @property
    def _dtype(self) -> np.dtype:
        return jnp.dtype(jnp.bfloat16)


class float16(_Nearest):
    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(np.float16)
