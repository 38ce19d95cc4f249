"""Arrays as stacks of arrays, each of whose axes has a basis of its own."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from gradtx._primitives.matrices import Layout, MuonDimensionNumbers, adjoint, product

Array = jax.Array
Bases = tuple[Array | None, ...]


@dataclasses.dataclass(frozen=True)
class Sides:
    """How an array of a shape becomes a stack of arrays whose axes are the sides, and back.

    Attributes:
        order: the array's axes, those of the stack first.
        split: its shape in that order.
        stack: how many arrays it is.
        lengths: of the sides.
    """

    order: tuple[int, ...]
    split: tuple[int, ...]
    stack: int
    lengths: tuple[int, ...]

    def blocks(self, x: Array) -> Array:
        """The stack, `[stack, *lengths]`."""
        return x.transpose(self.order).reshape(self.stack, *self.lengths)

    def array(self, x: Array) -> Array:
        """The array that a stack came from."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return x.reshape(self.split).transpose(inverse)

    def unfolded(self, x: Array, side: int) -> Array:
        """Of a stack one side against all others, `[stack, length, rest]`; all but the first conjugated."""
        if side == 0:
            return x.reshape(self.stack, self.lengths[0], -1)
        return adjoint(jnp.moveaxis(x, side + 1, -1).reshape(self.stack, -1, self.lengths[side]))

    def turned(self, x: Array, bases: Bases, *, back: bool = False) -> Array:
        """An array in the bases of its sides, $Q_L^H X Q_R$ for a matrix; or from them back into its own."""
        if all(q is None for q in bases):
            return x
        y = self.blocks(x)
        for side, q in enumerate(bases):
            if q is None:
                continue
            if side == 0:
                y = product(q if back else adjoint(q), y.reshape(self.stack, self.lengths[0], -1)).reshape(y.shape)
            else:
                last = jnp.moveaxis(y, side + 1, -1)
                flat = product(last.reshape(self.stack, -1, self.lengths[side]), adjoint(q) if back else q)
                y = jnp.moveaxis(flat.reshape(last.shape), -1, side + 1)
        return self.array(y)


def sides_of(shape: tuple[int, ...], numbers: MuonDimensionNumbers | None, merge: int | None) -> Sides:
    """The sides of an array.

    Args:
        shape: the array's.
        numbers: which of its axes are rows and columns; the others are a stack.
        merge: without `numbers`: join neighbouring axes as long as the side is not longer than this. None: don't; a
            vector has one side, and of other arrays the last two axes are rows and columns.

    Raises:
        ValueError: the array has no such axes.
    """
    plain = tuple(range(len(shape)))
    if numbers is None and len(shape) == 1:
        return Sides(plain, shape, 1, shape)
    if numbers is None and merge is not None and len(shape) > 1:
        return Sides(plain, shape, 1, merged(shape, merge))
    layout = Layout(shape, numbers)
    return Sides(layout.order, layout.split, math.prod(layout.shape[:-2]), layout.shape[-2:])


def merged(shape: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """A shape whose neighbouring axes are joined, from the first on, as long as none gets longer than a limit.

    Source:
        `merge_dims` in https://github.com/nikhilvyas/SOAP.
    """
    lengths, current = [], 1
    for n in shape:
        if current * n <= limit:
            current *= n
        elif current > 1:
            lengths.append(current)
            current = n
        else:
            lengths.append(n)
    return (*lengths, current) if current > 1 or not lengths else tuple(lengths)
