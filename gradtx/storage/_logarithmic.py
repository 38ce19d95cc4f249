"""A slot as a 16-bit logarithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.slots import Slot
from gradtx._core.storage import Codec
from gradtx._storage import log16 as formats
from gradtx._storage.bits import next_scale
from gradtx.storage._floats import in_place_of

Array = jax.Array
Arrays = dict[str, jax.Array]


class log16(Codec):
    r"""Keep a slot as a 16-bit logarithm, rounded stochastically: 2 to 4 times the precision of bfloat16, in its bytes.

    $$x = 2^{e} (1 + f), \qquad \text{code} = \left\lfloor 2^M (e + f - e_0) + U \right\rfloor$$

    with $M = 9$ for what is nonnegative (a second moment) and $M = 8$ beside a sign. A nonnegative average lies on a grid
    that decays as it does, so that a pure decay keeps its code. Range: 5.2e-26 to 1.7e13; zero is exact and nothing else
    decodes to it, nonzero values outside are kept as the nearest end. Infinities and NaN stay.

    Args:
        min_size: leaves with fewer elements stay as they are.
        seed: of the random bits.

    Parts:
        the slot itself, uint16. `<slot>_scale`: float32 scalar, the scale of the grid, of a nonnegative average.

    Source:
        Mitchell, "Computer Multiplication and Division Using Binary Logarithms", IRE Transactions EC-11 (1962).
    """

    randomized: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True

    def parts(self, slots: tuple[Slot, ...]) -> dict[str, Slot]:
        (slot,) = slots
        if not slot.real:
            return {"code": in_place_of(slot, np.dtype(np.uint16))}
        scale = Slot(f"{slot.name}_scale", "scalar", dtype=np.dtype(np.float32))
        return {"magnitude": in_place_of(slot, np.dtype(np.uint16)), "scale": scale}

    def scalars(self, memory: Arrays, rates: tuple[Array | None, ...]) -> Arrays:
        (rate,) = rates
        scale = _scale(memory)
        return {"scale": scale if rate is None else next_scale(scale, (1 - rate).astype(jnp.float32))}

    def encode(self, values: tuple[Array, ...], numbers: Arrays, bits: Callable[[str], Array]) -> Arrays:
        (value,) = values
        if "scale" in numbers:
            return {"magnitude": formats.encode_unsigned(value, _scale(numbers), bits("weyl"))}
        return {"code": formats.encode_signed(value, jnp.float32(1), bits("weyl"))}

    def decode(self, parts: Arrays, numbers: Arrays, shape: tuple[int, ...]) -> tuple[Array, ...]:
        if "scale" in numbers:
            return (formats.decode_unsigned(parts["magnitude"], _scale(numbers)),)
        return (formats.decode_signed(parts["code"], jnp.float32(1)),)


def _scale(numbers: dict[str, Any]) -> Array:
    """The scale of the grid, which is 1 before the first step."""
    scale = numbers["scale"]
    return jnp.where(scale == 0, jnp.ones_like(scale), scale)
