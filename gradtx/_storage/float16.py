r"""16-bit floats with stochastic rounding: unbiased, so that an average of many small changes does not stall.

$$\Pr[\text{up}] = \frac{x - \lfloor x \rfloor}{\lceil x \rceil - \lfloor x \rfloor}, \qquad \mathbb{E}[\text{rounded}] = x$$

for neighbours $\lfloor x \rfloor \le x \le \lceil x \rceil$ in the format, subnormal numbers included. What is exact
stays. NaN and infinities stay what they are; a finite value never becomes infinite, those beyond the largest finite one
become it.

Source:
    Gupta et al., "Deep Learning with Limited Numerical Precision", arXiv:1502.02551, section 3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._storage.bits import bits_of, integer_bits

_SIGN = np.uint32(0x80000000)
_INFINITY = np.uint32(0x7F800000)
_LARGEST_BFLOAT16 = np.float32(255 * 2.0**120)


def bfloat16_bits(x: jax.Array, random: jax.Array) -> jax.Array:
    """float32 `x` rounded to bfloat16, as uint32 whose upper half are its bits; the lower half is not cleared.

    The random bits are added below the part that is kept: a carry is rounding up.
    """
    word = bits_of(x)
    may_round = jnp.abs(x) < _LARGEST_BFLOAT16  # false for NaN
    return jnp.where(may_round, word + (random >> 16), word)  # each lies as x does, on explicit meshes too


def encode_bfloat16(x: jax.Array, random: jax.Array) -> jax.Array:
    """Round stochastically to bfloat16: 8 bits of precision, 9.2e-41 to 3.39e38.

    Args:
        x: float32.
        random: uint32, like x; the upper 16 bits are used.

    Returns:
        bfloat16, like x.
    """
    return _as(jnp.bfloat16, (bfloat16_bits(x, random) >> 16).astype(jnp.uint16))


def encode_float16(x: jax.Array, random: jax.Array) -> jax.Array:
    """Round stochastically to float16: 11 bits of precision, 6.1e-5 to 65504, subnormal numbers down to 6e-8.

    Args:
        x: float32.
        random: uint32, like x; the upper 23 bits are used.

    Returns:
        float16, like x.
    """
    word = bits_of(x)
    magnitude = word & ~_SIGN
    normal = ((magnitude + (random >> 19)) >> 13) - np.uint32((127 - 15) << 10)
    units = jnp.abs(x) * np.float32(2.0**24)  # below 2**-14 the code is the integer near it
    subnormal = integer_bits(jnp.minimum(units, np.float32(1024)), random) & np.uint32(0x7FF)
    code = jnp.where(units < 1024, subnormal, jnp.minimum(normal, np.uint32(0x7BFF)))
    code = jnp.where(magnitude < _INFINITY, code, np.uint32(0x7C00))
    code = jnp.where(magnitude > _INFINITY, np.uint32(0x7E00), code)
    size = _as(jnp.float16, code.astype(jnp.uint16))
    return jnp.where(word < _SIGN, size, -size)  # a selection last, for the reason that `packed16` gives


def _as(dtype: Any, half: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(half, dtype)
