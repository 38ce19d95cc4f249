"""What is computed twice, plainly and with care, because the plain result is rarely not good enough."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
Compute = Callable[[Array, Array], Array]


def unless(good: Array, plain: Compute, careful: Compute, x: Array, total: Array) -> Array:
    """`plain(x, total)` where that is good enough, else `careful(x, total)`.

    TPUs and GPUs compute both in one reading of `x`. XLA:CPU would read it for each, and write what the careful one makes
    of it, so there that waits until it is needed.

    Args:
        good: bool, a scalar.
        plain: what is enough in most cases.
        careful: of the same dtype and shape.
        x: the array that both may read.
        total: what is known of it.
    """

    def cpu(good: Array, x: Array, total: Array) -> Array:
        return jax.lax.cond(good, plain, careful, x, total)

    def default(good: Array, x: Array, total: Array) -> Array:
        return both(good, plain, careful, x, total)

    return jax.lax.platform_dependent(good, x, total, cpu=cpu, default=default)


def both(good: Array, plain: Compute, careful: Compute, x: Array, total: Array) -> Array:
    """`unless` as accelerators compute it."""
    return jnp.where(good, plain(x, total), careful(x, total))
