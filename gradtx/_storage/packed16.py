r"""Both moments in one uint16 word: 2 bytes a parameter, without scales or blocks.

    15           7 6            0
    | v: E7, M2   | m: ratio    |

*v* is a small float on a grid that decays with the mean itself (`bits.next_scale`), so a pure decay is exact. *m* is
stored as its companded ratio to about the root of v as stored,

$$k = \left\lfloor H \frac{m}{|m| + c\,\rho} + U \right\rfloor, \qquad m = c \frac{k}{H - |k|}\, \rho, \qquad
\rho \approx \sqrt{v}, \quad c = \tfrac14, \quad H = 64, \quad |k| \le 62$$

a bounded number that needs no scale and is finest where ratios lie (the steady state of gaussian gradients has
$|m|/\sqrt{v} \approx 0.23$). Writing and reading take the same $\rho$, so it need not be the root: it has half of v's exponent
and half of its mantissa, one shift of the code, and is 0 to 6% above. True roots, for writing and for
reading, made a step on a CPU up to half as long again. The largest ratio is 7.75 to 8.2; Adam's cannot exceed
$(1-b_1) / \sqrt{(1-b_2)(1-b_1^2/b_2)}$, 7.3 by default (Cauchy-Schwarz). So where v saturates, no update is larger than 8.2 learning rates.

Range: v from $2^{-82}$ to $2^{45}$, gradients of 4.5e-13 to 5.9e6; nonzero values outside are kept as the nearest end. v is
zero only where it was zero. If one of the two is infinite or NaN, m decodes to $-\infty$: it is what $k = -H$ means.

The word ends in an operation on uint16, not in a conversion to it. XLA would cancel a conversion against the one with
which decoding begins, and compute the update from a word it keeps in float32: a temporary of 4 bytes a parameter,
a copy of the state, and four times the time on a CPU.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.limits import at_least, at_most
from gradtx._storage.bits import TINY, bits_of, from_bits, integer_bits, signed

RATIO_BITS = 7
COMPANDING = 0.25  # c: 0.12, 0.18 and 0.35 are worse on gaussian gradients
LEVELS = 64  # H
LARGEST = 62  # |k|
_SHIFT = 21  # of a float32: what remains are 8 bits of exponent, of which the first is 0, and 2 of mantissa
_OFFSET = 2.0**44  # v / S from 2**-82 to 2**45 as a float32 below 2
_HALF_BIAS = np.uint32(127 << 22)
_LARGEST_CODE = np.uint32(511)
_NOT_FINITE = np.uint32(64)  # the level -H: its ratio is -infinity


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
    on_grid = at_least(v * (np.float32(1 / _OFFSET) / scale), TINY)
    code = jnp.minimum((bits_of(on_grid) + (random >> (32 - _SHIFT))) >> _SHIFT, _LARGEST_CODE)
    # As bits, since hardware may take a subnormal number for zero.
    code = jnp.where(bits_of(v) == 0, np.uint32(0), code)
    ratio = LEVELS * (m / (jnp.abs(m) + _root(code, scale)))
    level = integer_bits(at_most(at_least(ratio, -LARGEST), LARGEST), random)
    level = jnp.where(jnp.abs(m) * TINY + v < np.inf, level, _NOT_FINITE)
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
    v = from_bits(code << _SHIFT) * (scale * np.float32(_OFFSET))
    return level / (LEVELS - jnp.abs(level)) * _root(code, scale), v


def _root(code: jax.Array, scale: jax.Array) -> jax.Array:
    """About c times the root of the v with this code: half its exponent, and half its mantissa."""
    return from_bits((code << (_SHIFT - 1)) + _HALF_BIAS) * (COMPANDING * jnp.sqrt(scale * np.float32(_OFFSET)))
