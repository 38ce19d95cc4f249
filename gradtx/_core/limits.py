"""Limits as one comparison and one selection each.

XLA's minimum and maximum also order the signs of zeros and pass on NaN from either side, for which a CPU needs six
instructions; a comparison that chooses between a number and a limit is a single one. NaN stays NaN. A slot should not
end in a function of one array either, as a minimum with a constant is: XLA:CPU computes such a last operation, and
with it all before it, anew for each reader, from a copy of the old slot.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def at_most(x: Array, limit: Any) -> Array:
    """The smaller of `x` and a limit, in the dtype of `x`; NaN stays."""
    limit = jnp.asarray(limit, x.dtype)
    return jnp.where(x > limit, limit, x)


def at_least(x: Array, limit: Any) -> Array:
    """The larger of `x` and a limit, in the dtype of `x`; NaN stays."""
    limit = jnp.asarray(limit, x.dtype)
    return jnp.where(x < limit, limit, x)
