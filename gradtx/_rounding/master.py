"""Master weights: 16-bit parameters for the model, and float32 ones, or the bits they lack, for the optimizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise
from gradtx._rounding import grid

Slots = dict[str, jax.Array]


class master_weights(Leafwise):
    r"""Let the updates move weights of more bits, to which 16-bit parameters are rounded. Put it last.

    $$m_t = m_{t-1} + u_t, \qquad p_t = \operatorname{round}(m_t)$$

    Without `bits`, $m$ is a float32 copy of the parameters. With them it is not stored but put together from the
    parameter and the bits that it lacks: in ordinals (the values of the parameter's dtype, counted from zero upwards)

    $$m = p + \ell \, 2^{16 - b}, \qquad -2^{b-1} \le \ell < 2^{b-1}, \qquad b = \text{bits} - 16$$

    which for bfloat16 and 32 bits is every float32 exactly, and for 24 bits a float32 rounded to 16 bits of mantissa, the
    leading one included (ties to even). Float16 goes on below its smallest number, with steps of $2^{-40}$ for 32 bits and $2^{-32}$ for
    24. $p$ is the nearest 16-bit value; of two, the even one with a copy, and the upper one without.

    $p$ is the value that lands: what flows out is the float32 difference to it, on which gradtx's, Optax's and flax's
    `apply_updates` land. (Equinox's turns parameters into float32: use `gradtx.apply_updates`.) A finite sum beyond the
    largest value lands on that. Parameters that are changed by hand keep that change only if there is no copy: with one,
    `init` anew. Leaves that are not bfloat16 or float16 pass through and keep no state.

    Args:
        bits: None for a float32 copy, 4 bytes a parameter; 32 for the same weights in 2, 24 for shorter ones in 1. Static.

    State:
        `master`: float32, like the parameters that are bfloat16 or float16; at first those parameters.
        `low_bits`: with `bits` instead: $\ell$, int16 or int8.

    Raises:
        ValueError: `bits` is none of these; from `init`, if a stage behind it would write the update.

    Source:
        Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, section 3.1; the split as in Zamirai et al.,
        arXiv:2010.06192, section 4 (whose bits are cut off, where these are rounded).
    """

    bits: int | None = None

    requires: ClassVar[tuple[str, ...]] = ("param",)
    rounds: ClassVar[bool] = True
    recalls: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in (None, 24, 32):
            raise ValueError(f"master_weights(bits=...): expected None, 24 or 32, got {self.bits!r}")

    def slots(self) -> tuple[Slot, ...]:
        kept = np.dtype(np.float32 if self.bits is None else f"int{self.bits - 16}")

        def dtype(param: np.dtype) -> np.dtype | None:
            return kept if grid.is_coarse(param) else None

        return (
            Slot("master", dtype_for=dtype, initial="parameter")
            if self.bits is None
            else Slot("low_bits", dtype_for=dtype),
        )

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        if self.bits is None:
            return {"master": slots["master"] + signal.update}
        old: Any = signal.param
        master, number = self._moved(s, slots, signal)
        landed = grid.landed(old, grid.difference(old, self._nearest(s, master, number)), s.param_dtype)
        lacking = (number - grid.ordinal(landed, s.param_dtype)) >> (32 - self.bits)
        half = 1 << (self.bits - 17)
        return {"low_bits": jnp.where(jnp.isfinite(master), jnp.clip(lacking, -half, half - 1), 0)}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        if not slots:
            return signal
        if self.bits is None:
            new = grid.rounded(slots["master"], s.param_dtype)
        else:
            new = self._nearest(s, *self._moved(s, s.old, signal))
        old: Any = signal.param
        return signal.write(grid.straight_through(signal.update, grid.difference(old, new)))

    def _moved(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> tuple[jax.Array, jax.Array]:
        """The master weight after this step, and its ordinal in the bits that are kept."""
        old: Any = signal.param
        master = put_together(old, slots["low_bits"], s.param_dtype) + signal.update
        number = grid.ordinal(grid.within(master, s.param_dtype), s.param_dtype)
        if self.bits == 24:
            number = (number + 127 + ((number >> 8) & 1)) & -(1 << 8)  # ties to even: a rule for ties would add up
        return master, number

    def _nearest(self, s: SimpleNamespace, master: jax.Array, number: jax.Array) -> jax.Array:
        """The nearest 16-bit value. A tie goes up, so that what is lacking fits into its bits."""
        new = grid.from_ordinal((number + grid.STEP // 2) & -grid.STEP, s.param_dtype)
        return jnp.where(jnp.isfinite(master), new, master)


def put_together(param: jax.Array, low_bits: jax.Array, dtype: np.dtype) -> jax.Array:
    """float32: the master weight of a parameter of this dtype (itself float32 here) and the bits that it lacks."""
    lacking = low_bits.astype(jnp.int32) << (16 - 8 * low_bits.dtype.itemsize)
    master = grid.from_ordinal(grid.ordinal(grid.within(param, dtype), dtype) + lacking, dtype)
    return jnp.where(jnp.isfinite(param), master, param)
