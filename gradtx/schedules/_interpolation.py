"""The arithmetic of schedules, in which nothing cancels: shares of a way done and left, and powers of a rate.

A schedule one step before its end is a small share of where it started. `1 - t / T`, `1 + cos(pi t / T)` and `b ** t` in
float32 lose that share's digits, all of them in the cosine's case; the number of steps that are left is an integer, and
what follows from it keeps them.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Scalar = jax.typing.ArrayLike
Shares = tuple[jax.Array, jax.Array]


def floating(x: Any) -> jax.Array:
    """A number in float32, or in float64 where that is enabled."""
    return jnp.asarray(x, jnp.result_type(float))


def count_array(count: Scalar) -> jax.Array:
    """A step count as an array; integers stay integers, whose differences are exact."""
    count = jnp.asarray(count)
    return count if jnp.issubdtype(count.dtype, jnp.signedinteger) else floating(count)


def shares(count: Scalar, steps: Scalar, begin: int = 0) -> Shares:
    """What is left, and what is done, of the `steps` steps after `begin`; they add up to one."""
    at = count_array(count)
    if at.dtype == np.int32 and isinstance(steps, int) and steps > np.iinfo(np.int32).max:  # no count comes to its end
        done = floating(jnp.maximum(at - begin, 0))
        return (floating(float(steps)) - done) / floating(float(steps)), done / floating(float(steps))
    length = jnp.asarray(steps, at.dtype)
    done = jnp.clip(at - begin, 0, length)
    return floating(length - done) / floating(length), floating(done) / floating(length)


def cosine(parts: Shares) -> Shares:
    """The same along half a cosine: `(1 + cos(pi done)) / 2 = sin(pi left / 2) ** 2`, and the reverse."""
    left, done = (jnp.square(jnp.sin((math.pi / 2) * share)) for share in parts)
    return left, done


def powered(parts: Shares, exponent: Any) -> Shares:
    """`left ** exponent`, and what it lacks to one."""
    left, done = parts
    exponent = floating(exponent)
    never, early = left == 0, done < 0.5
    log = jnp.where(early, jnp.log1p(-jnp.where(early, done, 0)), jnp.log(jnp.where(early | never, 1, left)))
    lacking = jnp.where(never, jnp.where(exponent == 0, 0, 1), -jnp.expm1(exponent * log))
    return jnp.power(left, exponent), lacking


def between(start: Any, end: Any, parts: Shares) -> jax.Array:
    """`start` in the share that is left, and `end` in the share that is done."""
    left, done = parts
    return floating(start) * left + floating(end) * done


def power_of(rate: float, count: Scalar, steps: int) -> jax.Array:
    """`rate ** (count / steps)` for `rate > 0` to the last digits, however far down it leads.

    The exponent to base 2 is a multiple of a number known in float64. Its fraction is found in integers modulo 2**32,
    since a float32 product would keep only the digits that its whole part leaves.
    """
    at = count_array(count)
    slope = math.log2(rate) / steps
    if at.dtype == np.int32 and jnp.result_type(float) == np.float32:
        ticks = math.floor(slope * 2.0**32)
        rest = (slope * 2.0**32 - ticks) * 2.0**-32
        wrapped = at.astype(jnp.uint32) * np.uint32(ticks % 2**32)
        # Signed: a fraction in [-1/2, 1/2).
        fraction = jax.lax.bitcast_convert_type(wrapped, jnp.int32).astype(jnp.float32) * np.float32(2.0**-32)
        fraction = fraction + at.astype(jnp.float32) * np.float32(rest)
        whole = jnp.round(at.astype(jnp.float32) * np.float32(slope) - fraction)
        return jnp.ldexp(jnp.exp2(fraction), whole.astype(jnp.int32))
    return jnp.exp2(floating(at) * floating(slope))
