r"""Both moments in one uint16 word: 2 bytes a parameter, without scales or blocks.

    15           7 6            0
    | v: E7, M2   | m: ratio    |

*v* is a small float on a grid that decays with the mean itself (`bits.next_scale`), so a pure decay is exact. *m* is
stored as its companded ratio to the root of v as stored,

$$k = \left\lfloor H \frac{m}{|m| + c \sqrt{v}} + U \right\rfloor, \qquad m = c \frac{k}{H - |k|} \sqrt{v}, \qquad
c = \tfrac14, \quad H = 65, \quad |k| \le 63$$

a bounded number that needs no scale and is finest where ratios lie (the steady state of gaussian gradients has
$|m|/\sqrt{v} \approx 0.23$). The largest ratio is 7.9; Adam's cannot exceed $(1-b_1) / \sqrt{(1-b_2)(1-b_1^2/b_2)}$, 7.3 by
default (Cauchy-Schwarz). So where v saturates, no update is larger than 7.9 learning rates.

Range: v from $2^{-82}$ to $2^{45}$, gradients of 4.5e-13 to 5.9e6; nonzero values outside are kept as the nearest end. v is
zero only where it was zero. If one of the two is infinite or NaN, both decode to NaN.

The word ends in an operation on uint16, not in a conversion to it. XLA would cancel a conversion against the one with
which decoding begins, and compute the update from a word it keeps in float32: a temporary of 4 bytes a parameter,
a copy of the state, and four times the time on a CPU.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._storage.bits import QUIET, TINY, bits_of, from_bits, integer_bits, signed

RATIO_BITS = 7
COMPANDING = 0.25  # c: 0.12, 0.18 and 0.35 are worse on gaussian gradients
LEVELS = 65  # H
LARGEST = 63  # |k|
_SHIFT = 21  # of a float32: what remains are 8 bits of exponent, of which the first is 0, and 2 of mantissa
_OFFSET = 2.0**44  # v / S from 2**-82 to 2**45 as a float32 below 2
_NOT_FINITE = np.uint32(511)


def encode(m: jax.Array, v: jax.Array, scale: jax.Array, random: jax.Array) -> jax.Array:
    """Pack both moments.

    Args:
        m: float32.
        v: float32, like m, nonnegative.
        scale: float32 scalar in (1/2, 1], of this step.
        random: uint32, like m: `random_bits.weyl`.

    Returns:
        uint16, like m. The word 0 is m = v = 0.
    """
    on_grid = jnp.maximum(v * (np.float32(1 / _OFFSET) / scale), TINY)
    code = jnp.minimum((bits_of(on_grid) + (random >> (32 - _SHIFT))) >> _SHIFT, _NOT_FINITE - 1)
    # As bits, since hardware may take a subnormal number for zero.
    code = jnp.where(bits_of(v) == 0, np.uint32(0), code)
    code = jnp.where(jnp.abs(m) * TINY + v < np.inf, code, _NOT_FINITE)
    ratio = LEVELS * (m / (jnp.abs(m) + (COMPANDING * jnp.sqrt(_value(code, scale)) + TINY)))
    level = integer_bits(jnp.clip(ratio, -LARGEST, LARGEST), random)
    return (code.astype(jnp.uint16) << RATIO_BITS) | (level & np.uint32(127)).astype(jnp.uint16)


def decode(word: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Unpack (m, v), float32.

    Args:
        word: uint16.
        scale: float32 scalar, the one the word was encoded with.
    """
    word = word.astype(jnp.uint32)
    code = word >> RATIO_BITS
    level = signed(word, RATIO_BITS)
    v = _value(code, scale)
    return level / (LEVELS - jnp.abs(level)) * (COMPANDING * jnp.sqrt(v)), v  # by the root that updates divide by


def _value(code: jax.Array, scale: jax.Array) -> jax.Array:
    return from_bits(jnp.where(code == _NOT_FINITE, QUIET, code << _SHIFT)) * (scale * np.float32(_OFFSET))
