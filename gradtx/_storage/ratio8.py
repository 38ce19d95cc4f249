r"""The first moment in one byte: its companded ratio to a root of the second moment that is kept elsewhere.

$$k = \left\lfloor H \frac{m}{|m| + c\, r} + U \right\rfloor, \qquad m = c \frac{k}{H - |k|}\, r, \qquad c = \tfrac14, \quad
H = 131, \quad |k| \le 127$$

with $r = \sqrt{v}$ as stored. The ratio is bounded (`packed16`), so it needs no scale. Beside a factored second moment,
which costs next to nothing, it is Adam's state in one byte a parameter. A ratio of 3 or 4 bits beside 5 or 4 bits of v is not:
its updates are off by as much as they are long (BENCHMARKS.md).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gradtx._storage.bits import TINY, integer_bits

COMPANDING = 0.25  # c
LEVELS = 131  # H
LARGEST = 127  # |k|; the largest ratio is 7.9


def encode(m: jax.Array, root: jax.Array, random: jax.Array) -> jax.Array:
    """The code of a first moment.

    Args:
        m: float32.
        root: float32, like m, nonnegative: the root of the second moment as it will be known when decoding.
        random: uint32, like m.

    Returns:
        int8, like m. 0 where m is 0; -128 where m or root is infinite or NaN.
    """
    ratio = LEVELS * (m / (jnp.abs(m) + (COMPANDING * root + TINY)))
    level = integer_bits(jnp.clip(ratio, -LARGEST, LARGEST), random).astype(jnp.uint8)
    level = jax.lax.bitcast_convert_type(level, jnp.int8)
    return jnp.where(jnp.abs(m) + root < jnp.inf, level, jnp.int8(-128))


def decode(code: jax.Array, root: jax.Array) -> jax.Array:
    """float32, from `encode` with the same root; NaN for the code -128."""
    level = code.astype(jnp.float32)
    m = level / (LEVELS - jnp.abs(level)) * (COMPANDING * root)
    return jnp.where(code == -128, jnp.float32(jnp.nan), m)
