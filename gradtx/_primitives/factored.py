"""A second moment kept as the means of its rows and columns: two vectors in place of a matrix."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from gradtx._core.factors import longest_axes, roots_from_means, row_and_column_means, square_of
from gradtx._core.hyperparameters import number_field
from gradtx._core.moments import FactoredMoment, SecondMoment
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import towards

Slots = dict[str, jax.Array]


class factored_second_moment(Leafwise):
    r"""Estimate the second moment of the gradient from its row and column means; the update passes through unchanged.

    $$R_t = \beta_t R_{t-1} + (1 - \beta_t) \, \text{mean}_j (|g_t|^2 + \epsilon), \qquad
    C_t = \beta_t C_{t-1} + (1 - \beta_t) \, \text{mean}_i (|g_t|^2 + \epsilon), \qquad
    v_t = R_t C_t^\top / \text{mean}(R_t)$$

    with $\beta_t = 1 - (t - \text{decay\_offset})^{-\text{decay\_rate}}$. The first decay is 0, so there is no bias to
    correct. The two largest axes of a leaf are its columns and rows, all others a stack of matrices. Where the smaller
    of the two is shorter than `min_dim_size_to_factor` the moment is kept whole.

    Args:
        decay_rate: the exponent, >= 0; may be a schedule.
        decay_offset: the number of the step before the average starts anew (for fine-tuning), >= 0. Until then the
            moment is that of the last gradient.
        min_dim_size_to_factor: the shortest axis to factor.
        eps: $\epsilon \ge 0$, added to the squares.
        factored: whether to factor at all.
        decay_rate_fn: another rule for the decay, `(completed steps - decay_offset, decay_rate) -> decay`. A first decay
            above 0 then leaves the moment biased towards 0.

    State:
        `nu_row`, `nu_col`: real, the parameter's shape without its largest, or second largest, axis; `nu`: real, like
        the parameter, where it is not factored.

    Source:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235, Algorithm 4 and section 7.2 (the decay).
    """

    decay_rate: Any = number_field(default=0.8, minimum=0.0)
    decay_offset: Any = number_field(default=0.0, minimum=0.0)
    min_dim_size_to_factor: int = 128
    eps: Any = number_field(default=1e-30, minimum=0.0)
    factored: bool = True
    decay_rate_fn: Any = None

    estimates: ClassVar[Literal["first", "second"] | None] = "second"
    squares: ClassVar[bool] = True
    writes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        least = self.min_dim_size_to_factor
        if not isinstance(least, int) or isinstance(least, bool) or least < 0:
            raise ValueError(
                f"factored_second_moment(min_dim_size_to_factor=...): expected an integer >= 0, got {least!r}"
            )

    def slots(self) -> tuple[Slot, ...]:
        def without(which: int) -> Slot:
            def kept(of: tuple[int, ...]) -> tuple[int, ...]:
                axes = self._axes(of)
                assert axes is not None
                return tuple(i for i in range(len(of)) if i != axes[which])

            def shape(of: tuple[int, ...]) -> tuple[int, ...] | None:
                return None if self._axes(of) is None else tuple(of[i] for i in kept(of))

            return Slot(("nu_col", "nu_row")[which], role="factored", real=True, shape=shape, axes=kept)

        def whole(of: tuple[int, ...]) -> tuple[int, ...] | None:
            return of if self._axes(of) is None else None

        return without(1), without(0), Slot("nu", role="factored", real=True, shape=whole)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        since, exponent = step.t - step.value(self.decay_offset), step.value(self.decay_rate)
        if self.decay_rate_fn is None:
            return {"rate": jnp.maximum(since, 1) ** -exponent}, {}
        with jax.numpy_dtype_promotion("standard"):
            decay = self.decay_rate_fn(since - 1, exponent)
        return {"rate": 1 - jnp.asarray(decay, step.t.dtype)}, {}

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """The axes of the rows and of the columns, the longest; None for a leaf that is kept whole."""
        return longest_axes(shape, self.min_dim_size_to_factor) if self.factored else None

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        squares, axes = signal.squares + s.eps, self._axes(signal.captured.shape)
        if axes is None:
            return {"nu": towards(slots["nu"], squares, s.rate)}
        row, column = row_and_column_means(squares, *axes)
        return {"nu_row": towards(slots["nu_row"], row, s.rate), "nu_col": towards(slots["nu_col"], column, s.rate)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        axes = self._axes(signal.captured.shape)
        one = jnp.ones_like(s.rate)
        if axes is None:
            return signal.replace(second=SecondMoment(slots["nu"], one, one - one, has_bias=False))
        row, column = roots_from_means(slots["nu_row"], slots["nu_col"], *axes)
        moment = square_of(row * column)
        return signal.replace(second=FactoredMoment(moment, one, one - one, has_bias=False, row=row, column=column))
