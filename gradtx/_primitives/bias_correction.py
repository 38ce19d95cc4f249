"""Bias correction: an average that started at zero, divided by the weight it has gathered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax

from gradtx._core.order import label
from gradtx._core.safe import safe_divide
from gradtx._core.signal import Signal
from gradtx._core.stages import Leafwise
from gradtx._primitives.moments import sum_of_squares
from gradtx._primitives.momentum import trace


class bias_correction(Leafwise):
    r"""Remove the bias of moving averages that started at zero, in both moments estimated before it in its scope.

    $$\hat m_t = m_t / w_t, \qquad \hat v_t = v_t / w_t, \qquad w_t = b w_{t-1} + (1 - b)$$

    For a constant decay $w_t = 1 - b^t$; for a scheduled one this is right too, where $1 - b_t^t$ is not. The stored
    means are debiased already, so there is no division unless a stage in between has changed the update.

    State:
        none.

    Source:
        Kingma & Ba, "Adam", arXiv:1412.6980, section 3.
    """

    ignores_zeros: ClassVar[bool] = True

    def check_place(self, before: dict[str, Any]) -> None:
        if "first" not in before and "second" not in before:
            raise ValueError(
                "bias_correction needs a moving average before it in its scope (ema_first_moment, "
                "ema_second_moment), and there is none"
            )
        for done in ("bias corrected", "second used"):
            if done in before:
                raise ValueError(
                    f"bias_correction stands behind {label(before[done])}, where it has nothing to correct"
                )
        first, second = before.get("first"), before.get("second")
        if isinstance(first, trace):
            raise ValueError("bias_correction behind trace: a trace is a sum, not an average; use ema_first_moment")
        if first is None and isinstance(second, sum_of_squares):
            raise ValueError("bias_correction behind sum_of_squares: a sum has no bias to correct")
        before["bias corrected"] = self

    def emit(self, s: SimpleNamespace, slots: dict[str, jax.Array], signal: Signal) -> Signal:
        first, second = signal.first, signal.second
        if first is not None:
            whole = first.corrected if signal.fresh else None
            signal = signal.write(safe_divide(signal.update, first.weight) if whole is None else whole)
        if second is not None:
            signal = signal.replace(second=second.without_bias())
        return signal
