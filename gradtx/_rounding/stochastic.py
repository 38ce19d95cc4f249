"""Stochastic rounding of parameters: up or down by chance, right on average."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import random_bits
from gradtx._core.signal import Signal
from gradtx._core.stages import Leafwise
from gradtx._rounding import grid

PURPOSE = 0x70  # keeps these bits apart from those of other users with the same seed


class stochastic_rounding(Leafwise):
    r"""Round 16-bit parameters up or down by chance, so that their expectation is the exact sum. Put it last.

    $$p \leftarrow \lfloor p + u \rfloor + \Delta \, [\xi < f], \qquad
      f = \frac{p + u - \lfloor p + u \rfloor}{\Delta}$$

    with $\lfloor \cdot \rfloor$ the next value of the parameter's dtype below, $\Delta$ the distance to the one above, and
    $\xi$ uniform over [0, 1) in steps of $2^{-16}$: a function of the seed, the step, the leaf's number and the element's
    index alone, so it is the same on every layout and after a restart. An update that is small beside $\Delta$ is not
    lost, as it is by rounding to nearest, but applied in full now and then.

    What flows out is the float32 difference to the new value, on which gradtx's, Optax's and flax's `apply_updates`
    land. (Equinox's turns parameters into float32: use `gradtx.apply_updates`.) A finite sum beyond the largest value
    lands on that. Leaves that are not bfloat16 or float16 pass through.

    Args:
        seed: an int; another one draws other numbers. It is static: another one compiles again.

    State:
        none.

    Raises:
        TypeError: the seed is not an int.
        ValueError: from `init`, if a stage behind it would write the update.

    Source:
        Gupta et al., "Deep Learning with Limited Numerical Precision", arXiv:1502.02551, section 3; for bfloat16 weights
        Zamirai et al., "Revisiting BFloat16 Training", arXiv:2010.06192, section 4.
    """

    seed: int = 0

    requires: ClassVar[tuple[str, ...]] = ("param",)
    rounds: ClassVar[bool] = True
    randomized: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer)):
            raise TypeError(f"stochastic_rounding(seed=...): expected an int, got {self.seed!r}")
        object.__setattr__(self, "seed", int(self.seed))
        super().__post_init__()

    def emit(self, s: SimpleNamespace, slots: dict[str, jax.Array], signal: Signal) -> Signal:
        old: Any = signal.param
        if not grid.is_coarse(s.param_dtype):
            return signal
        bits = random_bits.murmur((self.seed << 8) | PURPOSE, s.count, s.leaf, old.shape)
        new = grid.rounded(old + signal.update, s.param_dtype, (bits >> 16).astype(jnp.int32))
        return signal.write(grid.straight_through(signal.update, grid.difference(old, new)))
