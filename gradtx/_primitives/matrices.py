"""Leaves as stacks of matrices: which axes are rows and columns, and products in full float32."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradtx._core.functions import the_same

try:
    from jax.experimental.shard_alike import shard_alike
except ModuleNotFoundError:  # jax 0.12
    shard_alike = None  # type: ignore[assignment]

Array = jax.Array


class MuonDimensionNumbers(NamedTuple):
    """Which axes of a weight are contracted with the input, and which are the output's; all others are a stack.

    Attributes:
        reduction_axis: one axis or several, which together are the rows of the matrix.
        output_axis: one axis or several, which together are its columns.
    """

    reduction_axis: int | tuple[int, ...] = 0
    output_axis: int | tuple[int, ...] = 1


LAST_TWO = MuonDimensionNumbers(-2, -1)


@dataclasses.dataclass(frozen=True)
class AxesOf:
    """Dimension numbers that a function of all parameters says, as Optax's `muon` takes one.

    Attributes:
        function: from the parameters (or the gradients, where `update` is given no parameters) to a tree like them, or a
            prefix of it, of `MuonDimensionNumbers`, and None for what is no matrix.
    """

    function: Callable[[Any], Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", the_same(self.function))

    def __call__(self, params: Any) -> list[MuonDimensionNumbers | None]:
        """For each leaf its dimension numbers.

        Raises:
            TypeError: what the function returned has something else in it.
            ValueError: it is another tree.
        """
        if not jax.tree.leaves(params):
            return []  # a stand-in for the parameters, of which the function knows nothing
        found: list[MuonDimensionNumbers | None] = []

        def spread(path: Any, given: Any, part: Any) -> None:
            try:
                numbers = dimension_numbers(given)
            except TypeError as error:
                raise TypeError(
                    f"{self!r}: {jax.tree_util.keystr(path, simple=True, separator='/')}: {error}"
                ) from error
            found.extend([numbers] * len(jax.tree.leaves(part)))

        named = self.function(params)
        try:
            jax.tree_util.tree_map_with_path(spread, named, params, is_leaf=is_entry)
        except ValueError as error:
            raise ValueError(
                f"{self!r}: expected a tree like the parameters, or a prefix of it, of MuonDimensionNumbers and None; "
                f"got {named!r}"
            ) from error
        return found

    def __repr__(self) -> str:
        return getattr(self.function, "__qualname__", None) or repr(self.function)


def is_entry(x: Any) -> bool:
    """Whether this stands for dimension numbers in a tree of them."""
    return x is None or hasattr(x, "reduction_axis") or isinstance(x, optax.MaskedNode)


def axes_field(given: Any) -> MuonDimensionNumbers | AxesOf | None:
    """What a stage's field `numbers` may be: dimension numbers, a function that says those of every leaf, None."""
    if isinstance(given, AxesOf):
        return given
    return AxesOf(given) if callable(given) else dimension_numbers(given)


def dimension_numbers(given: Any) -> MuonDimensionNumbers | None:
    """Dimension numbers as the user gives them, ours or Optax's, hashable; None stays None, the last two axes."""
    if given is None or isinstance(given, optax.MaskedNode):
        return None
    if isinstance(given, MuonDimensionNumbers) or (hasattr(given, "reduction_axis") and hasattr(given, "output_axis")):
        return MuonDimensionNumbers(*(_axes(a) for a in (given.reduction_axis, given.output_axis)))
    raise TypeError(f"expected MuonDimensionNumbers(reduction_axis, output_axis), got {given!r}")


def _axes(axes: Any) -> Any:
    if isinstance(axes, int) and not isinstance(axes, bool):
        return axes
    if not isinstance(axes, (tuple, list)) or not all(type(a) is int for a in axes) or not axes:
        raise TypeError(f"expected an axis or a sequence of axes, got {axes!r}")
    return tuple(axes)


class Layout:
    """How an array of a shape becomes a stack of matrices and back.

    Args:
        shape: the array's.
        numbers: which of its axes are rows and columns; None: the last two.

    Raises:
        ValueError: the array has no such axes, or one of them is meant to be both.
    """

    def __init__(self, shape: tuple[int, ...], numbers: MuonDimensionNumbers | None):
        numbers = numbers or LAST_TWO
        rows, columns = (self._normal(axes, len(shape)) for axes in numbers)
        if None in (*rows, *columns) or len({*rows, *columns}) < len(rows) + len(columns):
            raise ValueError(
                f"{numbers} names no rows and columns of an array of shape {shape}: expected different axes of it"
            )
        stack = [i for i in range(len(shape)) if i not in (*rows, *columns)]
        self.order = tuple(stack) + rows + columns
        self.split = tuple(shape[i] for i in self.order)
        self.fan_in = math.prod(shape[i] for i in rows)
        self.fan_out = math.prod(shape[i] for i in columns)
        self.shape = (*(shape[i] for i in stack), self.fan_in, self.fan_out)

    @staticmethod
    def _normal(axes: int | tuple[int, ...], ndim: int) -> tuple[Any, ...]:
        axes = (axes,) if isinstance(axes, int) else axes
        return tuple(a % ndim if -ndim <= a < ndim else None for a in axes)

    def matrices(self, x: Array) -> Array:
        """The stack, `[..., fan_in, fan_out]`."""
        return x.transpose(self.order).reshape(self.shape)

    def array(self, x: Array) -> Array:
        """The array that a stack came from."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return x.reshape(self.split).transpose(inverse)


def product(a: Array, b: Array, *, full: bool = True) -> Array:
    """The matrix product of stacks of matrices in full float32: accelerators else round the factors to fewer bits.

    Args:
        a: a stack of matrices.
        b: another.
        full: False lets a GPU round the factors to TensorFloat-32 (11 bits), and a TPU take three products of bfloat16
            numbers (16 bits) in place of six.
    """
    precision = jax.lax.Precision.HIGHEST if full else jax.lax.Precision.HIGH
    return jnp.matmul(a, b, precision=precision)


def adjoint(x: Array) -> Array:
    """The conjugate transpose of each matrix."""
    return jnp.swapaxes(x.conj(), -1, -2)


def transpose(x: Array) -> Array:
    """The transpose of each matrix."""
    return jnp.swapaxes(x, -1, -2)


def placed_like(x: Array, reference: Array) -> Array:
    """An array with the sharding of another of its shape, which products with replicated matrices would lose."""
    if jax.device_count() == 1:
        return x
    if shard_alike is not None:
        return shard_alike(x, reference)[0]
    # An operand that is never taken shares its sharding all the same, and XLA drops it once that is settled.
    return jnp.where(jnp.zeros(x.shape, bool), reference.astype(x.dtype), x)


def factor_like(x: Array, reference: Array, gradient: Array) -> Array:
    """A factor with the sharding of the one it replaces, on the devices of the gradient that entered it.

    Without `shard_alike` a factor is whole on every device, as it starts: the compiler would split it as the sides of the
    gradient are, and no operand that is whole could keep it from that.
    """
    sharding = getattr(jax.typeof(gradient), "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    if shard_alike is not None or mesh is None or mesh.empty or set(mesh.axis_types) != {jax.sharding.AxisType.Auto}:
        return placed_like(x, reference)
    return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def largest(x: Array) -> Array:
    """The largest absolute value in each matrix, `[..., 1, 1]`; 0 for an empty one."""
    return jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0)
