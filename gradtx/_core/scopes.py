"""Where a scope begins and ends, as stages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import jax

from gradtx._core.signal import Signal
from gradtx._core.stages import Leafwise


class enter_scope(Leafwise):
    """Start a scope: what flows in is its gradient."""

    clamp: str = ""

    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: dict[str, jax.Array], signal: Signal) -> Signal:
        return Signal(update=signal.update, param=signal.param, outer=signal, clamp=self.clamp)


class exit_scope(Leafwise):
    """End a scope: what flows out is an update to those outside."""

    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: dict[str, jax.Array], signal: Signal) -> Signal:
        assert signal.outer is not None
        return signal.outer.write(signal.update).replace(sense=signal.outer.sense.times(signal.sense))
