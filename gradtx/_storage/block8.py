r"""8 bits an element with one exact scale for each block along the last axis: the reference for the other formats.

With the largest absolute value $s$ of the block and $y = x / s$,

$$k = \left\lfloor 127\, (1 + c) \frac{y}{|y| + c} + U \right\rfloor, \qquad y = \frac{c k}{127 (1 + c) - |k|}$$

uniform for $c \to \infty$ and the finer near zero, the smaller $c$ is. A second moment is kept by its root, unsigned, 255
in place of 127, and its code is 0 only where it is zero: a v that rounds to zero where m does not has made many an 8-bit
Adam diverge. A scale is the mean's own decay's, so a pure decay keeps its codes.

Compared with `packed16` at the same 2 bytes: a second and third array, leaves whose last axis fills no blocks, and on
TPU 114 instead of 16 bytes of memory traffic a parameter and step, since blocks along the last axis need a reshape.

Source:
    Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861, section 2.1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._storage.bits import TINY, integer_bits

BLOCK = 256
SIGNED_COMPANDING = 1 / 16  # c: 1, 1/4 and 1/64 are worse on the gradients of the digits
ROOT_COMPANDING = 1 / 16


def encode_signed(x: jax.Array, random: jax.Array, block: int = BLOCK) -> tuple[jax.Array, jax.Array]:
    """Codes and scales of a float32 array.

    Args:
        x: float32[..., n].
        random: uint32, like x.
        block: elements that share a scale; the last block of a row may have fewer.

    Returns:
        int8, like x, and float32[..., ceil(n / block)]. A block with an infinity or NaN has the scale NaN.
    """
    scales = _largest(jnp.abs(x), block)
    level = integer_bits(_compand(x, scales, block, 127, SIGNED_COMPANDING), random).astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(level, jnp.int8), scales


def decode_signed(codes: jax.Array, scales: jax.Array, block: int = BLOCK) -> jax.Array:
    """float32, from `encode_signed`."""
    return _expand(codes.astype(jnp.float32), scales, block, 127, SIGNED_COMPANDING)


def encode_root(v: jax.Array, random: jax.Array, block: int = BLOCK) -> tuple[jax.Array, jax.Array]:
    """Codes and scales of the root of a nonnegative float32 array: uint8, like v, and float32[..., ceil(n / block)]."""
    root = jnp.sqrt(v)
    scales = _largest(root, block)
    level = integer_bits(_compand(root, scales, block, 255, ROOT_COMPANDING), random) & np.uint32(255)
    return jnp.maximum(level, (v > 0).astype(jnp.uint32)).astype(jnp.uint8), scales


def decode_root(codes: jax.Array, scales: jax.Array, block: int = BLOCK) -> jax.Array:
    """v, float32, from `encode_root`."""
    return jnp.square(_expand(codes.astype(jnp.float32), scales, block, 255, ROOT_COMPANDING))


def _largest(magnitude: jax.Array, block: int) -> jax.Array:
    *rows, n = magnitude.shape
    blocks = -(-n // block)
    padded = jnp.pad(magnitude, [(0, 0)] * len(rows) + [(0, blocks * block - n)])
    largest = jnp.max(padded.reshape(*rows, blocks, block), axis=-1, initial=0)
    return jnp.where(largest < np.inf, largest, jnp.float32(np.nan))


def _spread(scales: jax.Array, block: int, n: int) -> jax.Array:
    *rows, blocks = scales.shape
    return jnp.broadcast_to(scales[..., None], (*rows, blocks, block)).reshape(*rows, blocks * block)[..., :n]


def _compand(x: jax.Array, scales: jax.Array, block: int, top: int, c: float) -> jax.Array:
    scale = _spread(scales, block, x.shape[-1])
    return jnp.clip(top * (1 + c) * (x / (jnp.abs(x) + (c * scale + TINY))), -top, top)


def _expand(level: jax.Array, scales: jax.Array, block: int, top: int, c: float) -> jax.Array:
    return c * level / (top * (1 + c) - jnp.abs(level)) * _spread(scales, block, level.shape[-1])
