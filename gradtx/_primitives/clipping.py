"""Clipping: element by element, and by the norm of the whole tree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from gradtx._core.dtypes import scalar_dtype
from gradtx._core.hyperparameters import number_field
from gradtx._core.signal import Signal, square
from gradtx._core.stages import Leafwise, Treewise


class clip(Leafwise):
    r"""Clip every element of the update to $[-\delta, \delta]$. NaN stays NaN.

    Args:
        max_delta: $\delta \ge 0$; may be a schedule.

    State:
        none.

    Raises:
        TypeError: a leaf is complex, for which there is no elementwise order.
    """

    max_delta: Any = number_field(minimum=0.0)

    def emit(self, s: SimpleNamespace, slots: dict[str, jax.Array], signal: Signal) -> Signal:
        if jnp.iscomplexobj(signal.update):
            raise TypeError("clip: expected real updates, got complex ones, which have no order; clip by their norm")
        return signal.write(jnp.clip(signal.update, -s.max_delta, s.max_delta))


class clip_by_global_norm(Treewise):
    r"""Scale all updates down together so that their joint Euclidean norm is at most `max_norm`.

    $$u \leftarrow u \cdot \min(1, \text{max\_norm} / \lVert u \rVert_2)$$

    The norm is summed in float32 (or wider) whatever the updates' dtype, and does not overflow. If it is infinite or
    NaN, there is no direction to keep, and **every** update becomes NaN: a failure shows at once, everywhere, and not
    as zeros in all leaves but one.

    Args:
        max_norm: the largest norm, >= 0; may be a schedule.

    State:
        none.

    Source:
        Pascanu, Mikolov & Bengio, arXiv:1211.5063, Algorithm 1.
    """

    max_norm: Any = number_field(minimum=0.0)

    def update_tree(self, s: SimpleNamespace, updates: list[jax.Array]) -> list[jax.Array]:
        if not updates:
            return updates
        norm = euclidean_norm(updates)
        finite = jnp.isfinite(norm)
        clipped = norm >= s.max_norm

        def one(u: jax.Array) -> jax.Array:
            real = jnp.finfo(u.dtype).dtype
            # Divide first: max_norm / norm underflows for huge norms.
            small = (u / jnp.where(norm > 0, norm, 1).astype(real)) * s.max_norm.astype(real)
            return jnp.where(finite, jnp.where(clipped, small, u), jnp.full_like(u, jnp.nan))

        return [one(u) for u in updates]


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all leaves together, in float32 or wider; 0 for an empty tree.

    Squares that would overflow are summed a second time, scaled by a power of two: Blue's algorithm (ACM TOMS 4(1),
    1978), without its third range, since squares too small for a float do not change a norm that is not.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree)]
    return euclidean_norm([x.astype(_wide(x.dtype)) for x in leaves])


def _wide(dtype: Any) -> Any:
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def euclidean_norm(arrays: list[jax.Array]) -> jax.Array:
    """The norm of arrays that are float32 or wider."""
    total = scaled = jnp.zeros((), scalar_dtype())
    shrink = 2.0**-96  # the square of the largest float32, shrunk, leaves room for 2**64 elements
    for x in arrays:
        total = total + jnp.sum(square(x)).astype(total.dtype)
        scaled = scaled + jnp.sum(square(x * jnp.asarray(shrink, jnp.finfo(x.dtype).dtype))).astype(total.dtype)
    return jnp.where(jnp.isfinite(total), jnp.sqrt(total), jnp.sqrt(scaled) / shrink)
