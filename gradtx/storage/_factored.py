"""Adafactor's storage for any second moment: two vectors in place of a matrix."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from gradtx._core.factors import longest_axes, roots_from_means, row_and_column_means, square_of
from gradtx._core.slots import Slot
from gradtx._core.storage import Codec

Array = jax.Array
Arrays = dict[str, jax.Array]


class factored(Codec):
    r"""Keep a nonnegative slot as the means of its rows and columns.

    $$R = \text{mean}_j(v), \qquad C = \text{mean}_i(v), \qquad v \approx R C^\top / \text{mean}(R)$$

    An average of matrices has the average of their row means, so the two vectors are exactly those that Adafactor
    accumulates. The two longest axes are the columns and the rows, all others a stack; leaves in which one of them is shorter
    than `min_dim_size` stay as they are. Decoded, an element is exact only where $v$ has rank one.

    Args:
        min_size: leaves with fewer elements stay as they are.
        seed: not used.
        min_dim_size: the shortest axis to factor.

    Parts:
        `<slot>_row`, `<slot>_col`: float32, the parameter's shape without its longest, or second longest, axis.

    Source:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235, section 3.
    """

    min_dim_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("min_dim_size")

    def parts(self, slots: tuple[Slot, ...]) -> dict[str, Slot]:
        (slot,) = slots
        if not slot.real:
            raise TypeError(f"storage.factored: expected a slot of nonnegative numbers, as nu is, got {slot.name!r}")

        def declared(which: int, name: str) -> Slot:
            def kept(of: tuple[int, ...]) -> tuple[int, ...]:
                axes = longest_axes(of, self.min_dim_size)
                assert axes is not None
                return tuple(i for i in range(len(of)) if i != axes[which])

            def shape(of: tuple[int, ...]) -> tuple[int, ...] | None:
                return None if longest_axes(of, self.min_dim_size) is None else tuple(of[i] for i in kept(of))

            return Slot(name, "factored", dtype=np.dtype(np.float32), real=True, shape=shape, axes=kept)

        return {"row": declared(1, f"{slot.name}_row"), "column": declared(0, f"{slot.name}_col")}

    def fits(self, shape: tuple[int, ...]) -> bool:
        return super().fits(shape) and longest_axes(shape, self.min_dim_size) is not None

    def encode(self, values: tuple[Array, ...], numbers: Arrays, bits: Callable[[str], Array]) -> Arrays:
        (value,) = values
        row, column = row_and_column_means(value, *self._axes(value.shape))
        return {"row": row, "column": column}

    def decode(self, parts: Arrays, numbers: Arrays, shape: tuple[int, ...]) -> tuple[Array, ...]:
        row, column = roots_from_means(parts["row"], parts["column"], *self._axes(shape))
        return (square_of(row * column),)

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        axes = longest_axes(shape, self.min_dim_size)
        assert axes is not None
        return axes
