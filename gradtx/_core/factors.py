"""A matrix of nonnegative numbers from the means of its rows and columns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.rarely import unless
from gradtx._core.safe import safe_divide, safe_sqrt, square, zero_of


def longest_axes(shape: tuple[int, ...], least: int) -> tuple[int, int] | None:
    """The axes of the rows and of the columns: the two longest, the columns' last; None if one is shorter than `least`."""
    if len(shape) < 2:
        return None
    *_, rows, columns = (int(i) for i in np.argsort(shape))
    return None if shape[rows] < max(least, 1) else (rows, columns)


def mean(x: jax.Array, axis: int, *, keepdims: bool = False) -> jax.Array:
    """The mean of nonnegative numbers along an axis, which is finite where they are; 0 for an empty array."""
    return _means(x, [axis], keepdims)[0]


def row_and_column_means(x: jax.Array, rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
    """For matrices of nonnegative numbers the mean of each row, along the axis `columns`, and of each column."""
    of_rows, of_columns = _means(x, [columns, rows], False)
    return of_rows, of_columns


def _means(x: jax.Array, axes: list[int], keepdims: bool) -> list[jax.Array]:
    counts = [max(x.shape[axis], 1) for axis in axes]
    # One power of two for all, so that XLA:CPU writes one array for the sums.
    unit = 0.5 ** ((max(counts) - 1).bit_length() + 1)
    small = x * unit
    means = []
    for axis, count in zip(axes, counts, strict=True):
        total, factor = jnp.sum(small, axis, keepdims=keepdims), 1 / (unit * count)
        finite = factor * jnp.minimum(total, float(jnp.finfo(x.dtype).max) / factor)
        means.append(jnp.where(jnp.isinf(total), total, finite))
    return means


def mean_of_squares(x: jax.Array) -> jax.Array:
    """The mean of `|x|**2`, at most the largest number: a scalar, 0 for an empty array; NaN if an element is not finite.

    Where the plain sum overflows, a power of two that goes in before the square keeps it finite.
    """
    plain = jnp.sum(square(x))
    return unless(plain < jnp.inf, _mean_of_sum, _mean_of_large_squares, x, plain)


def _mean_of_sum(x: jax.Array, plain: jax.Array) -> jax.Array:
    return plain / max(x.size, 1)


def _mean_of_large_squares(x: jax.Array, plain: jax.Array) -> jax.Array:
    count = max(x.size, 1)
    scale = 2.0 ** -((count - 1).bit_length() + 1 >> 1)  # whose square is in (1/4, 1] / count
    largest = float(jnp.finfo(plain.dtype).max)
    total = jnp.sum(jnp.minimum(square(x * scale), largest * scale**2) + zero_of(x))
    return jnp.minimum(total * (1 / (count * scale**2)), largest)


def roots_from_means(row: jax.Array, column: jax.Array, rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
    """Two arrays whose product is the root of the outer product of both over the mean of the first.

    By their roots, so that nothing over- or underflows on the way.

    Args:
        row: the means over the axis `columns`, without it.
        column: the means over the axis `rows`, without it.
        rows: the axis of the rows.
        columns: the axis of the columns.
    """
    overall = mean(row, rows - (rows > columns), keepdims=True)
    share = safe_divide(safe_sqrt(row), safe_sqrt(overall))
    return jnp.expand_dims(share, columns), jnp.expand_dims(safe_sqrt(column), rows)


def square_of(root: jax.Array) -> jax.Array:
    """The square of a nonnegative array, finite where that is."""
    largest = jnp.finfo(root.dtype).max
    return jnp.minimum(jnp.square(root), jnp.where(jnp.isinf(root), jnp.inf, largest))
