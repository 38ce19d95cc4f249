r"""The values of a 16-bit dtype inside float32, and the update that leads from one to another.

An *ordinal* counts the values of the dtype from zero upwards, with 16 bits after the point: a signed integer that grows
with the number, the same distance for every step of the dtype, subnormal or large. Rounding is then an integer addition
in front of dropping those 16 bits: half a step to nearest, a random share of a step for a stochastic rounding without
bias, and what is dropped is what a parameter lacks to be float32. (Of bfloat16 that is the very word of a float32; of
float16 the three last bits stay empty, and below 2**-17 steps of 2**-40 are counted.)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BFLOAT16, FLOAT16 = np.dtype(jnp.bfloat16), np.dtype(np.float16)
STEP = 1 << 16  # one step of the dtype, in ordinals
_SIGN, _MAGNITUDE = np.uint32(1 << 31), np.int32((1 << 31) - 1)
_SUBNORMAL = 1 << 26  # the ordinal of 2**-14, float16's smallest normal number
_BIAS = (127 - 15) << 23  # float32's exponents start so much lower than float16's


def is_coarse(dtype: Any) -> bool:
    """Whether a parameter of this dtype has bits to lose: bfloat16 and float16."""
    return np.dtype(dtype) in (BFLOAT16, FLOAT16)


def ordinal(x: jax.Array, dtype: np.dtype) -> jax.Array:
    """int32: the ordinal of a finite float32 within the range of the dtype."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    magnitude = bits & _MAGNITUDE
    if dtype == FLOAT16:
        small = jax.lax.round(jnp.abs(x) * 2.0**40, jax.lax.RoundingMethod.TO_NEAREST_EVEN).astype(jnp.int32)
        magnitude = jnp.where(jnp.abs(x) < 2.0**-14, small, (magnitude - _BIAS) << 3)
    return jnp.where(bits < 0, -magnitude, magnitude)


def from_ordinal(number: jax.Array, dtype: np.dtype) -> jax.Array:
    """float32: the number with this ordinal; of float16's small ones, which have more than 24 bits, the nearest."""
    magnitude = jnp.abs(number)
    bits = magnitude
    if dtype == FLOAT16:
        small = jax.lax.bitcast_convert_type(magnitude.astype(jnp.float32) * 2.0**-40, jnp.int32)
        bits = jnp.where(magnitude < _SUBNORMAL, small, (magnitude >> 3) + _BIAS)
    sign = jnp.where(number < 0, _SIGN, np.uint32(0))
    return jax.lax.bitcast_convert_type(bits.astype(jnp.uint32) | sign, jnp.float32)


def within(x: jax.Array, dtype: np.dtype) -> jax.Array:
    """`x`, or the largest value of the dtype where that is smaller: what is finite never lands on infinity."""
    largest = float(jnp.finfo(dtype).max)
    return jnp.clip(x, -largest, largest)


def rounded(x: jax.Array, dtype: np.dtype, offset: jax.Array | int | None = None) -> jax.Array:
    """float32: `x` rounded to a value of the dtype; infinities and NaN stay.

    Args:
        x: float32.
        dtype: bfloat16 or float16.
        offset: what is added to the ordinal before its last 16 bits are dropped: uniform over 0 ... 2**16 - 1 it rounds
            without bias. None rounds to nearest, ties to even, as a cast does.
    """
    number = ordinal(within(x, dtype), dtype)
    if offset is None:
        offset = STEP // 2 - 1 + ((number >> 16) & 1)
    return jnp.where(jnp.isfinite(x), from_ordinal((number + offset) & -STEP, dtype), x)


def difference(old: jax.Array, new: jax.Array) -> jax.Array:
    """float32: what to add to `old` to reach `new`, finite where `new` is."""
    largest = float(jnp.finfo(jnp.float32).max)
    step = new - old
    step = jnp.where(jnp.isfinite(new), jnp.clip(step, -largest, largest), step)
    return jnp.where(new == old, 0, step)  # also of an infinity to itself


def landed(old: jax.Array, update: jax.Array, dtype: np.dtype) -> jax.Array:
    """float32: the parameter as it will be, `old + update` cast to the dtype.

    It is that very cast, so that what is kept of the rest follows from the new parameter in a compiled step, and both
    are written by one fusion. XLA may drop a cast and its reverse; then the second rounding is the one that counts.
    """
    return rounded((old + update).astype(dtype).astype(jnp.float32), dtype)


@jax.custom_jvp
def straight_through(update: jax.Array, rounded_update: jax.Array) -> jax.Array:
    """The rounded update, with the derivatives of the one that was not: steps have none of their own."""
    return rounded_update


@straight_through.defjvp
def _straight_through_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return primals[1], tangents[0]
