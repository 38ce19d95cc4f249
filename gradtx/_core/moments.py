"""What estimators put into the signal: first and second moments, with the weights that their averages have."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from gradtx._core.safe import safe_divide, safe_sqrt

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FirstMoment:
    """A running average or sum of what came in, as a stage that follows may use it.

    Attributes:
        raw: the average as its equation defines it, started at zero (what `update` carries).
        corrected: the same without the bias of that start, or None where there is none to remove.
        weight: scalar, the total weight the past has in `raw`; `raw = corrected * weight`.
        rate: scalar, the share of this step's input in `corrected`.
        retain: scalar, the factor by which the past shrinks in one step.
        gain: scalar, the factor with which an input enters `raw`.
        input: what this step averaged.
    """

    raw: Array
    corrected: Array | None
    weight: Array
    rate: Array
    retain: Array
    gain: Array
    input: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SecondMoment:
    """A second moment `weight * (mean + remainder) + offset`, kept in parts so that no sum overflows or cancels.

    Attributes:
        mean: real, nonnegative, the debiased average of the squares.
        weight: scalar, the total weight of the past.
        offset: real scalar, what the initial value still contributes.
        remainder: real, nonnegative, what bias correction removes beside the weight, or None.
        corrected: whether the bias was removed; the value is then `mean + offset / weight`.
        has_bias: whether there is a bias to remove at all (a sum of squares has none).
    """

    mean: Array
    weight: Array
    offset: Array
    remainder: Array | None = None
    corrected: bool = dataclasses.field(default=False, metadata={"static": True})
    has_bias: bool = dataclasses.field(default=True, metadata={"static": True})

    def root(self, inside: Array) -> Array:
        """`sqrt(value + inside)`; 0 with a zero derivative where that is 0."""
        if self.corrected:
            return safe_sqrt(self.mean + (safe_divide(self.offset, self.weight) + inside))
        mean = self.mean if self.remainder is None else self.mean + self.remainder
        return jnp.sqrt(self.weight) * safe_sqrt(mean + safe_divide(self.offset + inside, self.weight))

    def divide(self, update: Array, inside: Array, outside: Array) -> Array:
        """`update / (sqrt(value + inside) + outside)`, as `safe_divide`."""
        return safe_divide(update, self.root(inside) + outside)

    def value(self) -> Array:
        """The moment itself."""
        if self.corrected:
            return self.mean + safe_divide(self.offset, self.weight)
        mean = self.mean if self.remainder is None else self.mean + self.remainder
        return self.weight * mean + self.offset

    def without_bias(self) -> SecondMoment:
        """The same moment, corrected if there is something to correct."""
        return dataclasses.replace(self, corrected=self.has_bias)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RawMoment(SecondMoment):
    """A second moment that is no average: its value is `mean`, and corrected `mean / weight`, which may overflow."""

    def root(self, inside: Array) -> Array:
        if self.corrected:
            return safe_divide(safe_sqrt(self.mean + inside * self.weight), jnp.sqrt(self.weight))
        return safe_sqrt(self.mean + inside)

    def value(self) -> Array:
        return safe_divide(self.mean, self.weight) if self.corrected else self.mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FactoredMoment(SecondMoment):
    """A second moment without a bias that is the square of a product: `mean = (row * column)**2`.

    Attributes:
        row: real, nonnegative, with an axis of length 1.
        column: the same with another.
    """

    row: Array = dataclasses.field(kw_only=True)
    column: Array = dataclasses.field(kw_only=True)

    def divide(self, update: Array, inside: Array, outside: Array) -> Array:
        return _divide_by_product(update, self.row, self.column, self.mean, inside, outside)


@jax.custom_jvp
def _divide_by_product(x: Array, row: Array, column: Array, square: Array, inside: Array, outside: Array) -> Array:
    """`_divide_by_root` where the root of `square` is known as a product: if nothing is added, no root and no quotient an element."""
    zeros = [factor == 0 for factor in (row, column)]
    per_row, per_column = (1 / jnp.where(zero, 1, factor) for zero, factor in zip(zeros, (row, column), strict=True))
    quotient = jnp.where(zeros[0] | zeros[1], jnp.sign(x), x * per_row * per_column)
    return jnp.where((inside == 0) & (outside == 0), quotient, _divide_by_root(x, square, inside, outside))


@_divide_by_product.defjvp
def _divide_by_product_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    kept = (0, 3, 4, 5)
    _, tangent = jax.jvp(_divide_by_root, tuple(primals[i] for i in kept), tuple(tangents[i] for i in kept))
    return _divide_by_product(*primals), tangent


def _divide_by_root(x: Array, square: Array, inside: Array, outside: Array) -> Array:
    return safe_divide(x, safe_sqrt(square + inside) + outside)
