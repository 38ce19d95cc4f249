r"""Both moments in one uint32 word: 4 bytes a parameter, near float32's fidelity.

    31                16 15               0
    | m: sign, E8, M7   | v: E8, M8        |

m is a bfloat16. v needs no sign, which buys it an eighth bit of mantissa, and lies on a grid that decays with the mean
itself: the code is that of $v / 2S$, with $S$ from `bits.next_scale`. Both are rounded stochastically with the same
bits, so neither stalls, whatever its decay. One word instead of two halves, because XLA:CPU then needs two fusions for
a step instead of three, and integers of one width.

Range: m 9e-41 to 3.39e38. v 2.4e-38 (smaller nonzero values are kept as this) to 1.7e38 (larger ones, and infinity, too).
NaN stays, in m infinity too, and v is zero only where it was zero.

Chosen by measurement (BENCHMARKS.md): a companded ratio of 12 bits beside v in 20 is 4 times closer to float32, but
the step takes 1.5 to 2 times as long on a CPU for its two square roots and divisions more.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.limits import at_least, at_most
from gradtx._storage.bits import QUIET, TINY, bits_of, from_bits
from gradtx._storage.float16 import bfloat16_bits

_LARGEST = np.float32(2.0**126)  # of v / 2: a code above 3.39e38 would decode to infinity
_UPPER = np.uint32(0xFFFF0000)


def encode(m: jax.Array, v: jax.Array, scale: jax.Array, random: jax.Array) -> jax.Array:
    """Pack both moments.

    Args:
        m: float32.
        v: float32, like m, nonnegative.
        scale: float32 scalar in (1/2, 1], of this step.
        random: uint32, like m: `random_bits.weyl`.

    Returns:
        uint32, like m. The word 0 is m = v = 0.
    """
    # Halved, no v overflows.
    on_grid = at_most(at_least(v * (np.float32(0.5) / scale), TINY), _LARGEST / scale)
    low = (jnp.minimum(bits_of(on_grid), QUIET) + (random >> 17)) >> 15  # every NaN as one, which does not carry
    low = jnp.where(bits_of(v) == 0, np.uint32(0), low)  # as bits: hardware may take a subnormal number for zero
    return (bfloat16_bits(m, random) & _UPPER) | low


def decode(word: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Unpack (m, v), float32.

    Args:
        word: uint32.
        scale: float32 scalar, the one the word was encoded with.
    """
    return from_bits(word & _UPPER), from_bits((word & ~_UPPER) << 15) * (2 * scale)
