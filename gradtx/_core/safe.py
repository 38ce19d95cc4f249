"""Roots, quotients and squares with values and derivatives where the plain ones have none."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.custom_jvp
def safe_sqrt(x: Array) -> Array:
    """Square root whose derivative at 0 is 0 instead of infinity."""
    return jnp.sqrt(x)


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    zero = x == 0
    slope = jnp.where(zero, 0, 0.5 / jnp.sqrt(jnp.where(zero, 1, x)))
    return safe_sqrt(x), slope * dx


@jax.custom_jvp
def safe_divide(x: Array, y: Array) -> Array:
    """`x / y`, and the sign of `x` where `y` is 0, with zero derivatives there.

    A root mean square is 0 only if every gradient was 0, and then 0/0 is meant to be 0, or if their squares
    underflowed: then +-1 is the exact quotient of a constant gradient, where infinity would be a lost parameter.
    """
    return jnp.where(y == 0, jnp.sign(x), x / y)


@safe_divide.defjvp
def _safe_divide_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, y), (dx, dy) = primals, tangents
    zero = y == 0
    safe = jnp.where(zero, 1, y)
    quotient = x / safe
    return safe_divide(x, y), jnp.where(zero, 0, (dx - quotient * dy) / safe)


def square(x: Array) -> Array:
    """`|x|**2`, real also for complex x."""
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return jnp.square(x)


def zero_of(x: Array) -> Array:
    """0, and NaN where x is not finite; real also for complex x."""
    return 0 * x.real + 0 * x.imag if jnp.iscomplexobj(x) else 0 * x
