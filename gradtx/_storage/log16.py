r"""16-bit logarithmic codes with stochastic rounding: twice to four times the precision of bfloat16, in its bytes.

    unsigned:  | E7, M9 |        signed:  | sign, E7, M8 |

Codes are uniform in Mitchell's logarithm, which replaces $\log_2 (1 + f)$ by $f$ between two powers of two:

$$x = 2^{e} (1 + f), \qquad \text{code} = \left\lfloor 2^M (e + f - e_0) + U \right\rfloor$$

It is the float's own exponent and mantissa read as one number, so encoding takes integers only: it is exact on every
device, which `log2` and `exp2` are not, costs a few operations, and rounding is unbiased in x itself, not in its
logarithm. On the decaying grid (`bits.next_scale`, for the second moment) a pure decay keeps its code; elsewhere the
scale is 1.

Range: |x| / scale from $2^{-84}$ (5.2e-26) to $2^{44}$ (1.7e13): $2^{128}$. Zero is exact, and nothing else decodes to it: nonzero
values outside are kept as the nearest end. Infinities and NaN have codes of their own.

Source:
    Mitchell, "Computer Multiplication and Division Using Binary Logarithms", IRE Transactions EC-11 (1962), section II.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._storage.bits import bits_of, from_bits, magnitude_bits

LOWEST = -84  # e_0
_INFINITY = np.uint32(0x7F800000)


def encode_unsigned(x: jax.Array, scale: jax.Array, random: jax.Array) -> jax.Array:
    """The code of a nonnegative float32 array.

    Args:
        x: float32, nonnegative.
        scale: float32 scalar in (1/2, 1].
        random: uint32, like x.

    Returns:
        uint16, like x. The code 0 is zero.
    """
    return _encode(x, scale, random, 9)


def decode_unsigned(code: jax.Array, scale: jax.Array) -> jax.Array:
    """float32, from `encode_unsigned` with the same scale."""
    return _decode(code.astype(jnp.uint32), scale, 9)


def encode_signed(x: jax.Array, scale: jax.Array, random: jax.Array) -> jax.Array:
    """The code of a float32 array, with its sign in the highest bit.

    Args:
        x: float32.
        scale: float32 scalar in (1/2, 1].
        random: uint32, like x.

    Returns:
        uint16, like x. The code 0 is zero.
    """
    sign = (bits_of(x) >> 16).astype(jnp.uint16) & np.uint16(0x8000)
    return sign | _encode(x, scale, random, 8)


def decode_signed(code: jax.Array, scale: jax.Array) -> jax.Array:
    """float32, from `encode_signed` with the same scale."""
    word = code.astype(jnp.uint32)
    magnitude = _decode(word & np.uint32(0x7FFF), scale, 8)
    return from_bits(bits_of(magnitude) | ((word & np.uint32(0x8000)) << 16))


def _encode(x: jax.Array, scale: jax.Array, random: jax.Array, mantissa: int) -> jax.Array:
    """1 to 2**(7 + mantissa) - 3 for what is finite and not zero; the two codes above are infinity and NaN."""
    shift = 23 - mantissa
    first = np.uint32(((LOWEST + 127) << mantissa) - 1)
    infinite = np.uint32((1 << (7 + mantissa)) - 2)
    given = magnitude_bits(x)
    code = (magnitude_bits(x * (1 / scale)) + (random >> (32 - shift))) >> shift
    code = jnp.clip(code, first + np.uint32(1), first + infinite - np.uint32(1)) - first
    code = jnp.where(given < _INFINITY, code, jnp.where(given == _INFINITY, infinite, infinite + np.uint32(1)))
    # The last operation is one on uint16, for the reason that `packed16` gives.
    return jnp.where(given == 0, np.uint16(0), code.astype(jnp.uint16))


def _decode(code: jax.Array, scale: jax.Array, mantissa: int) -> jax.Array:
    first = np.uint32(((LOWEST + 127) << mantissa) - 1)
    infinite = np.uint32((1 << (7 + mantissa)) - 2)
    finite = from_bits((code + first) << (23 - mantissa)) * scale
    special = jnp.where(code == 0, np.float32(0), jnp.where(code == infinite, np.float32(np.inf), np.float32(np.nan)))
    return jnp.where((code == 0) | (code >= infinite), special, finite)
