"""An update of length one."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.dtypes import promote, scalar_dtype
from gradtx._core.safe import safe_sqrt, square
from gradtx._core.stages import Treewise


class normalize(Treewise):
    r"""Divide all updates by their joint Euclidean norm: $u \leftarrow u / \lVert u \rVert_2$, and 0 where that is 0.

    The norm neither over- nor underflows, whatever finite values the updates hold. If it is infinite or NaN, every update
    becomes NaN.

    State:
        none.

    Source:
        Foret et al., "Sharpness-Aware Minimization", arXiv:2010.01412, equation 2 with $p = 2$: the direction to climb.
    """

    ignores_zeros: ClassVar[bool] = True

    def update_tree(self, s: SimpleNamespace, updates: list[jax.Array]) -> list[jax.Array]:
        if not updates:
            return updates
        wide = scalar_dtype()
        largest = functools.reduce(jnp.maximum, [_largest(u).astype(wide) for u in updates])
        reach = jnp.finfo(wide).maxexp * 3 // 4  # as in `leaf_norm`; a power of two, which a compiler may not invert
        unit = jnp.where((largest > 0) & (largest < 2.0 ** -(reach // 2)), 2.0**reach, 1)
        unit = jnp.where(largest > 2.0 ** (reach // 2), 2.0**-reach, unit).astype(wide)
        scaled = [u.astype(promote(np.dtype(u.dtype), wide)) * unit for u in updates]
        total = sum((jnp.sum(square(u)) for u in scaled), start=jnp.zeros_like(unit))
        norm = safe_sqrt(jnp.where(total == 0, 1, total))
        norm = jnp.where(jnp.isfinite(norm), norm, jnp.nan)
        return [(u / norm).astype(old.dtype) for u, old in zip(scaled, updates, strict=True)]


def _largest(x: jax.Array) -> jax.Array:
    """The largest absolute value of a real or imaginary part; 0 for an empty array."""
    parts = [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    return functools.reduce(jnp.maximum, [jnp.max(jnp.abs(part), initial=0) for part in parts])
