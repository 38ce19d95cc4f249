"""Which dtype is used where: arithmetic in float32 or wider, updates in what parameter and gradient promote to."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def compute_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of the arithmetic for a parameter: float32 for anything narrower, else its own."""
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        return np.dtype(np.float32)
    return dtype


@functools.cache
def real_dtype(dtype: np.dtype) -> np.dtype:
    """float32 for complex64, float64 for complex128, else the dtype itself."""
    return np.zeros((), dtype).real.dtype if jnp.issubdtype(dtype, jnp.complexfloating) else dtype


@functools.cache
def promote(a: np.dtype, b: np.dtype) -> np.dtype:
    """`jnp.promote_types`, also where the user asked for strict promotion, and for 8-bit floats, which JAX promotes to
    nothing: the other dtype, and float32 for two different ones.
    """
    if a == b:
        return a
    narrow = [jnp.issubdtype(x, jnp.floating) and x.itemsize == 1 for x in (a, b)]
    if all(narrow):
        return np.dtype(np.float32)
    if any(narrow) and is_inexact(b if narrow[0] else a):
        return b if narrow[0] else a
    with jax.numpy_dtype_promotion("standard"):
        return np.dtype(jnp.promote_types(a, b))


def cast(x: jax.Array, dtype: np.dtype) -> jax.Array:
    """`x.astype(dtype)`, strongly typed; no operation at all (and no time to trace one) where there is nothing to do."""
    return x if x.dtype == dtype and not getattr(x, "weak_type", False) else jax.lax.convert_element_type(x, dtype)


def narrowed(x: jax.Array, dtype: np.dtype) -> jax.Array:
    """`cast(x, dtype)`, with its derivative, whose rounding holds where the result is widened again.

    XLA drops a conversion to a narrower float and its reverse on accelerators; what it is told to round, it rounds.
    """
    narrow = dtype in (jnp.bfloat16, np.float16) and x.dtype in (np.float32, np.float64)
    if not narrow and not (dtype == np.float32 and x.dtype == np.float64):
        return cast(x, dtype)
    return _rounded(x, dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _rounded(x: jax.Array, dtype: np.dtype) -> jax.Array:
    info = jnp.finfo(dtype)
    value = jax.lax.reduce_precision(x, info.nexp, info.nmant)
    if dtype == np.float16:  # whose subnormal numbers reduce_precision takes for zero, and float32 has all
        step = float(info.smallest_subnormal)
        small = jax.lax.round(x * (1 / step), jax.lax.RoundingMethod.TO_NEAREST_EVEN) * step
        value = jnp.where(jnp.abs(x) < float(info.tiny), small, value)
    return cast(value, dtype)


@_rounded.defjvp
def _rounded_jvp(dtype: np.dtype, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # That of a conversion: `round` has none, and every second moment of gradients below 8e-3 is subnormal in float16.
    return _rounded(primals[0], dtype), cast(tangents[0], dtype)


def is_inexact(dtype: np.dtype) -> bool:
    """Whether arrays of this dtype can be averaged: floating or complex."""
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def scalar_dtype() -> np.dtype:
    """The dtype of per-step scalars: float32, or float64 where x64 is enabled."""
    return jax.dtypes.canonicalize_dtype(np.float64)
