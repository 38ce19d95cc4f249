"""Both moments of a scope in one word."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.slots import Slot
from gradtx._core.storage import Codec
from gradtx._storage import packed16 as sixteen
from gradtx._storage import packed32 as thirty_two
from gradtx._storage.bits import next_scale
from gradtx.storage._floats import in_place_of

Array = jax.Array
Arrays = dict[str, jax.Array]


class _Packed(Codec):
    covers: ClassVar[int] = 2
    randomized: ClassVar[bool] = True
    word: ClassVar[type]
    format: ClassVar[ModuleType]
    ignores_zeros: ClassVar[bool] = True

    def parts(self, slots: tuple[Slot, ...]) -> dict[str, Slot]:
        first, second = slots
        name = f"{first.name}_{second.name}"
        scale = Slot(f"{name}_scale", "scalar", dtype=np.dtype(np.float32))
        return {"word": in_place_of(first, np.dtype(self.word), name), "scale": scale}

    def scalars(self, memory: Arrays, rates: tuple[Array | None, ...]) -> Arrays:
        rate = rates[1]
        assert rate is not None  # only averages are kept together
        return {"scale": next_scale(_started(memory["scale"]), (1 - rate).astype(jnp.float32))}

    def encode(self, values: tuple[Array, ...], numbers: Arrays, bits: Callable[[str], Array]) -> Arrays:
        return {"word": self.format.encode(*values, _started(numbers["scale"]), bits("weyl"))}

    def decode(self, parts: Arrays, numbers: Arrays, shape: tuple[int, ...]) -> tuple[Array, ...]:
        return self.format.decode(parts["word"], _started(numbers["scale"]))


def _started(scale: Array) -> Array:
    """The scale of the grid, which is 1 before the first step."""
    return jnp.where(scale == 0, jnp.ones_like(scale), scale)


class packed32(_Packed):
    r"""Keep `mu` and `nu` of a scope in one uint32 word: 4 bytes a parameter, near float32's fidelity.

    | 31 ... 16 | 15 ... 0 |
    |---|---|
    | $m$: a bfloat16 | $v$: 8 bits of exponent, 8 of mantissa, on a grid that decays as $v$ does |

    Both are rounded stochastically, so that neither stalls whatever its decay; a $v$ that only decays stays on its code. Range:
    $|m|$ to 3.4e38, $v$ from 2.4e-38 to 1.7e38; nonzero values outside are kept as the nearest end. Infinity in m, and NaN, stay.

    Args:
        min_size: leaves with fewer elements stay as they are.
        seed: of the random bits.

    Parts:
        `mu_nu`: uint32, like the parameters. `mu_nu_scale`: float32 scalar, the scale of the grid.
    """

    word: ClassVar[type] = np.uint32
    format: ClassVar[ModuleType] = thirty_two


class packed16(_Packed):
    r"""Keep `mu` and `nu` of a scope in one uint16 word: 2 bytes a parameter, without scales or blocks.

    | 15 ... 7 | 6 ... 0 |
    |---|---|
    | $v$: 7 bits of exponent, 2 of mantissa, on a grid that decays as $v$ does | $m$: its companded ratio to $\rho \approx \sqrt v$ |

    $$k = \left\lfloor H \frac{m}{|m| + c\,\rho} + U \right\rfloor, \qquad m = c \frac{k}{H - |k|}\, \rho, \qquad
    c = \tfrac14, \quad H = 64$$

    A ratio is bounded, and needs no scale. Range: gradients of 4.5e-13 to 5.9e6; beyond, no update is larger than 8.2 learning
    rates, and a sudden change of scale recovers. Updates differ from float32's by about a tenth: it trains within the spread of
    seeds (BENCHMARKS.md), but it is not the same run.

    Args:
        min_size: leaves with fewer elements stay as they are.
        seed: of the random bits.

    Parts:
        `mu_nu`: uint16, like the parameters. `mu_nu_scale`: float32 scalar, the scale of the grid.
    """

    word: ClassVar[type] = np.uint16
    format: ClassVar[ModuleType] = sixteen
