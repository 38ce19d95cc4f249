"""Kahan summation of updates: what rounding takes from a parameter waits for the next step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.signal import Signal
from gradtx._core.slots import Slot, slot_storage
from gradtx._core.stages import Leafwise
from gradtx._rounding import grid

Slots = dict[str, jax.Array]


class compensated(Leafwise):
    r"""Add to the next update what rounding took from this one (Kahan summation). For 16-bit parameters; put it last.

    $$y_t = u_t + c_{t-1}, \qquad p_t = \operatorname{round}(p_{t-1} + y_t), \qquad c_t = y_t - (p_t - p_{t-1})$$

    with rounding to nearest, and $p_t$ the value that lands: what flows out is the float32 difference to it, on which
    gradtx's, Optax's and flax's `apply_updates` land. (Equinox's turns parameters into float32: use
    `gradtx.apply_updates`.) A finite sum beyond the largest value lands on that, and nothing is carried over. Leaves
    that are not bfloat16 or float16 pass through and keep no state.

    Args:
        dtype: the dtype of $c$; None is the parameter's own, 2 bytes, and resolves $p$ 256 times finer than bfloat16
            does. In float16 the residual has the same smallest number, $2^{-24}$, as the parameter: below about $2^{-6}$
            `dtype="float32"` or `master_weights(24)` resolve more.

    State:
        `residual`: $c$, like the parameters that are bfloat16 or float16.

    Raises:
        TypeError: `dtype` is not a floating one.
        ValueError: from `init`, if a stage behind it would write the update.

    Source:
        Kahan, "Further remarks on reducing truncation errors", Comm. ACM 8(1), 1965; for bfloat16 weights Zamirai et
        al., "Revisiting BFloat16 Training", arXiv:2010.06192, Algorithm 1.
    """

    dtype: Any = None

    requires: ClassVar[tuple[str, ...]] = ("param",)
    rounds: ClassVar[bool] = True
    recalls: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        stored = slot_storage(self.dtype, self, "dtype")
        if stored is not None and jnp.issubdtype(stored, jnp.complexfloating):
            raise TypeError(f"compensated(dtype=...): expected a floating dtype, got {stored.name}")
        object.__setattr__(self, "dtype", stored)

    def slots(self) -> tuple[Slot, ...]:
        def dtype(param: np.dtype) -> np.dtype | None:
            return (self.dtype or param) if grid.is_coarse(param) else None

        return (Slot("residual", dtype_for=dtype),)

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        old: Any = signal.param
        step = signal.update + slots["residual"]
        change = grid.landed(old, self._move(s, slots, signal), s.param_dtype) - old
        inside = jnp.abs(old + step) <= float(jnp.finfo(s.param_dtype).max)
        return {"residual": jnp.where(inside, step - change, 0)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        if not slots:
            return signal
        return signal.write(grid.straight_through(signal.update, self._move(s, s.old, signal)))

    def _move(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> jax.Array:
        old: Any = signal.param
        return grid.difference(old, grid.rounded(old + (signal.update + slots["residual"]), s.param_dtype))
