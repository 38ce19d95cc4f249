"""Norms of one leaf, that neither overflow nor underflow where the leaf does not."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.dtypes import scalar_dtype
from gradtx._core.rarely import unless
from gradtx._core.safe import safe_sqrt, square
from gradtx._core.signal import Signal


@jax.jit
def leaf_norm(x: jax.Array, factor: jax.Array | None = None) -> jax.Array:
    """The Euclidean norm of an array of float32 or wider: a real scalar, 0 for an empty array.

    The squares are summed at three scales, each for the range where the others over- or underflow: Blue's algorithm
    (ACM TOMS 4(1), 1978) with the scale chosen once for the whole array. Jitted, so that arrays of one shape are traced once.

    Args:
        x: the array.
        factor: a scalar; the norm is that of `x * factor`, which need not be written, since it goes in behind the sums.
    """

    def times(norm: jax.Array) -> jax.Array:
        return norm if factor is None else norm * jnp.abs(factor)

    plain = jnp.sum(square(x))
    return unless(
        _is_ordinary(plain),
        lambda x, plain: times(safe_sqrt(plain)),
        lambda x, plain: _norm_of_extremes(x, plain, times),
        x,
        plain,
    )


def _reach(dtype: np.dtype) -> int:
    """The exponent of the other scales: 96 for float32. The largest and the smallest normal number have a square there."""
    return jnp.finfo(dtype).maxexp * 3 // 4


def _is_ordinary(plain: jax.Array) -> jax.Array:
    """Whether no square that matters was lost. False for NaN."""
    return (plain >= 2.0 ** -(_reach(plain.dtype) * 3 // 4)) & (plain < jnp.inf)


def _norm_of_extremes(x: jax.Array, plain: jax.Array, times: Callable[[jax.Array], jax.Array]) -> jax.Array:
    shrink, grow = (jnp.asarray(2.0 ** (sign * _reach(plain.dtype)), plain.dtype) for sign in (-1, 1))
    shrunk, grown = sum_of_scaled_squares(x, shrink), sum_of_scaled_squares(x, grow)
    large = ~(plain < jnp.inf)
    return times(safe_sqrt(jnp.where(large, shrunk, grown))) / jnp.where(large, shrink, grow)


def sum_of_scaled_squares(x: jax.Array, unit: jax.Array) -> jax.Array:
    """The sum of the squares of `x * unit`, over the elements beyond 1 if the unit shrinks them, else over those within.

    The others would add nothing. Selecting between product and square keeps XLA from making `x**2 * unit**2` of it,
    which is NaN where the square of the unit is infinite.
    """
    parts = [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    within = [jnp.abs(part) <= 1 for part in parts]  # false for NaN, which then stays in the larger sum
    chosen = [jnp.where(w == (unit > 1), part * unit, 0) for w, part in zip(within, parts, strict=True)]
    return sum((jnp.sum(jnp.square(part)) for part in chosen), start=jnp.zeros((), unit.dtype))


def leaf_rms(x: jax.Array) -> jax.Array:
    """The root mean square of an array: `leaf_norm` divided by the root of its size; 0 for an empty array."""
    return leaf_norm(x) / max(x.size, 1) ** 0.5


def norm_of_updates(signals: list[Signal]) -> jax.Array:
    """The `tree_norm` of updates. One that was scaled need not be written for it."""
    parts = [leaf_norm(*(signal.product or (signal.update,))) for signal in signals]
    return leaf_norm(jnp.stack([part.astype(scalar_dtype()) for part in parts]))


def tree_norm(arrays: list[jax.Array]) -> jax.Array:
    """The Euclidean norm of one array or more together, with the reach of `leaf_norm`."""
    return leaf_norm(jnp.stack([leaf_norm(x).astype(scalar_dtype()) for x in arrays]))
