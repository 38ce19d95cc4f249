"""What the formats share: float32 as its bits, cheap fractions from random bits, and the decaying grid's scale."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

TINY = np.float32(2.0**-126)  # the smallest normal float32: what is below it, hardware may flush to zero
QUIET = np.uint32(0x7FC00000)  # NaN
_ROUND = np.float32(3 * 2.0**22)  # beside it, a float32 holds integers only


def bits_of(x: jax.Array) -> jax.Array:
    """The bits of a float32 array as uint32."""
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def from_bits(word: jax.Array) -> jax.Array:
    """The float32 array with these bits."""
    return jax.lax.bitcast_convert_type(word, jnp.float32)


def magnitude_bits(x: jax.Array) -> jax.Array:
    """The bits of |x|; of every NaN those of one, so that what is added to them cannot carry out of the word."""
    return jnp.minimum(bits_of(x) & np.uint32(0x7FFFFFFF), QUIET)


def integer_bits(x: jax.Array, random: jax.Array) -> jax.Array:
    r"""$\lfloor x + U \rfloor$ for a fraction $U$ from the top of the random bits: the unbiased integer near x.

    Without a conversion to integers, which costs a check for values that do not fit: float32 rounds the sum with a
    large number to an integer, found in its lower bits.

    Args:
        x: float32, |x| <= 1024.
        random: uint32.

    Returns:
        uint32, whose lower 22 bits are the integer in two's complement.
    """
    # The bit that is set keeps U 2**-14 off both ends, where a sum that is rounded could leave an exact integer.
    one_to_two = from_bits((random >> 9) | np.uint32(0x3F800400))
    return bits_of((x + (one_to_two - np.float32(1.5 + 2.0**-14))) + _ROUND)


def signed(word: jax.Array, width: int) -> jax.Array:
    """The integer in the lower `width` bits, in two's complement, as float32."""
    shift = np.int32(32 - width)
    return ((jax.lax.bitcast_convert_type(word, jnp.int32) << shift) >> shift).astype(jnp.float32)


def next_scale(scale: jax.Array, retain: jax.Array) -> jax.Array:
    r"""The scale of the decaying grid after a step, in (1/2, 1].

    $$S_t = 2^{n}\, r_t\, S_{t-1}, \qquad S_0 = 1$$

    where $r_t$ is the exact factor by which the stored mean shrinks on a zero gradient (one minus its rate). The
    codes of a format on this grid are $S$ times a set that doubling maps into itself, so a mean that only decays
    stays on its code: no rounding, no noise, no stall.

    Args:
        scale: float32 scalar, $S_{t-1}$.
        retain: float32 scalar, $r_t$; 0 (the first step) starts anew at 1.
    """
    product = scale * retain
    mantissa = from_bits((bits_of(product) & np.uint32(0x007FFFFF)) | np.uint32(0x3F000000))  # [1/2, 1)
    normal = (product >= TINY) & (product < np.inf)
    return jnp.where(normal & (mantissa > 0.5), mantissa, jnp.ones_like(product))
