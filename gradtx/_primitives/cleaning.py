"""Stages that mend an update: without its mean, without NaN, without steps below zero, or without anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise

Slots = dict[str, jax.Array]


class centralize(Leafwise):
    r"""Subtract from each row of the update its mean: over all axes but the first, in leaves of two axes and more.

    State:
        none.

    Source:
        Yong et al., "Gradient Centralization", arXiv:2004.01461, equation 1.
    """

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        u = signal.update
        if u.ndim < 2 or not u.size:
            return signal
        return signal.write(u - jnp.mean(u, axis=tuple(range(1, u.ndim)), keepdims=True))


class set_to_zero(Leafwise):
    """Replace the update by zeros. Where nothing is to be trained at all, `freeze()` keeps no state either.

    State:
        none.
    """

    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        # A constant would have no sharding of its own.
        return signal.write(jnp.where(True, 0, signal.update))


def _scalar(shape: tuple[int, ...]) -> tuple[int, ...]:
    return ()


class zero_nans(Leafwise):
    """Replace NaN in the update by zero, and note in which leaves there was one.

    It hides what went wrong; `skip_nonfinite` leaves the whole step out instead.

    State:
        `found_nan`: bool scalar for each leaf, whether its last update had a NaN.
    """

    ignores_zeros: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("found_nan", role="factored", dtype=np.dtype(bool), real=True, shape=_scalar),)

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        return {"found_nan": jnp.isnan(signal.update).any()}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return signal.write(jnp.where(jnp.isnan(signal.update), 0, signal.update))


class keep_params_nonnegative(Leafwise):
    r"""Shorten steps that would make a parameter negative, so that it becomes zero: $u \leftarrow \max(u, -p)$.

    Parameters that are negative already are moved to zero. It belongs at the end of a chain, behind the learning rate.

    State:
        none.

    Raises:
        TypeError: a leaf is complex, which has no sign.
    """

    requires: ClassVar[tuple[str, ...]] = ("param",)
    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        if jnp.iscomplexobj(signal.update) or jnp.iscomplexobj(signal.param):
            raise TypeError("keep_params_nonnegative: expected real parameters, got complex ones, which have no sign")
        assert signal.param is not None
        return signal.write(jnp.where(signal.param + signal.update < 0, -signal.param, signal.update))
