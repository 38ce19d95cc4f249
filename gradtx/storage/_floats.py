"""Slots in 16-bit floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.dtypes import narrowed
from gradtx._core.slots import Slot
from gradtx._core.storage import Codec
from gradtx._storage import float16 as formats

Array = jax.Array
Arrays = dict[str, jax.Array]


class _Float(Codec):
    randomized: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True
    stochastic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.stochastic, bool):
            raise TypeError(
                f"{type(self).__name__}(stochastic=...): expected True or False, got {self.stochastic!r} of type "
                f"{type(self.stochastic).__name__}"
            )

    def parts(self, slots: tuple[Slot, ...]) -> dict[str, Slot]:
        (slot,) = slots
        return {"value": in_place_of(slot, self._dtype)}

    def encode(self, values: tuple[Array, ...], numbers: Arrays, bits: Callable[[str], Array]) -> Arrays:
        (value,) = values
        return {"value": self._rounded(value, bits("weyl")) if self.stochastic else narrowed(value, self._dtype)}

    def decode(self, parts: Arrays, numbers: Arrays, shape: tuple[int, ...]) -> tuple[Array, ...]:
        return (parts["value"].astype(jnp.float32),)

    @property
    def _dtype(self) -> np.dtype:
        raise NotImplementedError

    def _rounded(self, value: Array, random: Array) -> Array:
        raise NotImplementedError


class bfloat16(_Float):
    r"""Keep a slot in bfloat16: 8 bits of precision, the range of float32.

    Rounded to nearest, an average stops moving where its steps are smaller than 1/256 of it: with a decay of 0.999 a second
    moment stays 200 times too large after the gradients have shrunk tenfold. Rounded stochastically,

    $$\Pr[\text{up}] = \frac{x - \lfloor x \rfloor}{\lceil x \rceil - \lfloor x \rfloor}, \qquad \mathbb{E}[\text{rounded}] = x,$$

    it does not.

    Args:
        min_size: leaves with fewer elements stay as they are.
        seed: of the random bits.
        stochastic: whether to round stochastically, or to nearest.

    Parts:
        the slot itself, bfloat16.

    Source:
        Gupta et al., "Deep Learning with Limited Numerical Precision", arXiv:1502.02551, section 3.
    """

    @property
    def _dtype(self) -> np.dtype:
        return jnp.dtype(jnp.bfloat16)

    def _rounded(self, value: Array, random: Array) -> Array:
        return formats.encode_bfloat16(value, random)


class float16(_Float):
    """Keep a slot in float16: 11 bits of precision, from 6e-8 to 65504.

    Too narrow for a second moment: gradients below 2e-4 have squares that vanish. For first moments of gradients of
    ordinary size; finite values beyond 65504 become it.

    Args:
        min_size: leaves with fewer elements stay as they are.
        seed: of the random bits.
        stochastic: whether to round stochastically, or to nearest.

    Parts:
        the slot itself, float16.
    """

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(np.float16)

    def _rounded(self, value: Array, random: Array) -> Array:
        return formats.encode_float16(value, random)


def in_place_of(slot: Slot, dtype: np.dtype, name: str | None = None) -> Slot:
    """The declaration of a part that has the shape and the place of a slot."""
    return Slot(name or slot.name, slot.role, dtype=np.dtype(dtype), real=True, shape=slot.shape, axes=slot.axes)
