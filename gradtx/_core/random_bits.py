"""Random bits for rounding: a function of (seed, count, leaf, index of the element in the whole array) alone.

The index is computed from iotas inside whatever fusion uses the bits, so they cost no memory traffic, are the same on
every layout under GSPMD, and are the same after a restart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Scalar = int | jax.Array | np.integer
"""An integer, traced or not; taken modulo 2**32, but a Python `seed` with all of its bits."""

GOLDEN = np.uint32(0x9E3779B9)  # 2**32 / the golden ratio: the additive sequence of lowest discrepancy
PLASTIC = np.uint32(0xC13FA9A9)  # 2**32 / the plastic number: its companion in two dimensions
_MIX = (np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35))  # MurmurHash3's finalizer
_WORD = 1 << 32


def murmur(
    seed: Scalar,
    count: Scalar,
    leaf: Scalar,
    shape: Sequence[int],
    *,
    start: Sequence[Scalar] | None = None,
    whole: Sequence[int] | None = None,
) -> jax.Array:
    r"""32 random bits for each element, uncorrelated between rows, columns, steps, leaves and seeds.

    The finalizer of MurmurHash3 over the element's index, with one key added before it and one in the middle of it
    (a single key would only shift one and the same sequence):

    $$h = i + k_1, \quad h = (h \oplus h/2^{16})\, c_1, \quad h = (h \oplus h/2^{13} \oplus k_2)\, c_2, \quad
    h \oplus h/2^{16}$$

    Args:
        seed: tells two users of the bits apart.
        count: the step.
        leaf: the number of the leaf in its tree.
        shape: the shape of the result.
        start: inside `shard_map`, the index of the block's first element along each axis.
        whole: inside `shard_map`, the shape of the whole array.

    Returns:
        uint32[shape]. Along an axis of more than 2**32 elements they repeat with that period.

    Source:
        Appleby, MurmurHash3, `fmix32` (public domain).
    """
    key = _key(seed, leaf, count)
    h = _place(shape, start, whole, key) + key
    h = (h ^ (h >> 16)) * _MIX[0]
    h = (h ^ (h >> 13) ^ _finalize(key ^ GOLDEN)) * _MIX[1]
    return h ^ (h >> 16)


def weyl(
    seed: Scalar,
    count: Scalar,
    leaf: Scalar,
    shape: Sequence[int],
    *,
    start: Sequence[Scalar] | None = None,
    whole: Sequence[int] | None = None,
) -> jax.Array:
    r"""32 bits for each element, of low discrepancy in time: cheaper than `murmur`, and better for moments.

    $$h = \lfloor 2^{32}/\rho \rfloor\, i + \lfloor 2^{32}/\varphi \rfloor\, t + k \pmod{2^{32}}$$

    with the plastic number $\rho$, the golden ratio $\varphi$, and one random offset $k$ for each (seed, leaf). Read as
    the fraction $h/2^{32}$, any n successive steps of one element are spread over [0, 1) with gaps of at most
    about 2/n, so the rounding errors of an average cancel faster than independent ones would. The upper bits are the
    good ones; elements and steps are *not* independent of each other.

    Args:
        seed, count, leaf, shape, start, whole: as in `murmur`.

    Returns:
        uint32[shape].

    Source:
        Weyl, "Über die Gleichverteilung von Zahlen mod. Eins", 1916; the two constants: Roberts, "The Unreasonable
        Effectiveness of Quasirandom Sequences", 2018.
    """
    key = _key(seed, leaf)
    return _place(shape, start, whole, key) * PLASTIC + (_word(count) * GOLDEN + key)


def _place(
    shape: Sequence[int], start: Sequence[Scalar] | None, whole: Sequence[int] | None, key: jax.Array
) -> jax.Array:
    """The row-major index of each element in the whole array.

    Beyond 2**32 elements that of its last axes, as many as one word counts, plus a hash of that of the axes before.
    """
    shape = tuple(shape)
    whole = shape if whole is None else tuple(whole)
    start = (0,) * len(shape) if start is None else tuple(start)
    if not len(shape) == len(start) == len(whole):
        raise ValueError(f"expected one start and one length for each axis of {shape}, got {start} and {whole}")
    first = len(shape)
    while first and math.prod(whole[first - 1 :]) <= _WORD:
        first -= 1
    first = min(first, max(len(shape) - 1, 0))
    index = _row_major(shape, start, whole, range(first, len(shape)))
    if math.prod(whole[:first]) > 1:
        index = index + _finalize(_row_major(shape, start, whole, range(first)) ^ key)
    return index


def _row_major(shape: tuple[int, ...], start: tuple[Scalar, ...], whole: tuple[int, ...], axes: range) -> jax.Array:
    index = jnp.zeros(shape, jnp.uint32)
    for axis in axes:
        if whole[axis] > 1:
            along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis) + _word(start[axis])
            index = index + along * np.uint32(math.prod(whole[axis + 1 : axes.stop]) % _WORD)
    return index


def _finalize(h: jax.Array) -> jax.Array:
    h = (h ^ (h >> 16)) * _MIX[0]
    h = (h ^ (h >> 13)) * _MIX[1]
    return h ^ (h >> 16)


def _key(seed: Scalar, *numbers: Scalar) -> jax.Array:
    """One word for each tuple of numbers."""
    words = [seed]
    if isinstance(seed, int):  # all of a Python integer's bits, in words
        words = [seed >> shift for shift in range(0, max(seed.bit_length() + 1, 1), 32)]
    key = jnp.uint32(len(words))
    for number in (*words, *numbers):
        key = _finalize((key ^ _word(number)) * GOLDEN + PLASTIC)
    return key


def _word(number: Scalar) -> jax.Array:
    if isinstance(number, int):
        return jnp.asarray(np.uint32(number % _WORD))
    return jnp.asarray(number).astype(jnp.uint32)
