"""Clipping: element by element, and by the norm of the whole tree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.dtypes import compute_dtype, is_inexact, scalar_dtype
from gradtx._core.hyperparameters import number_field
from gradtx._core.safe import safe_sqrt, square
from gradtx._core.signal import Signal
from gradtx._core.stages import Leafwise, Treewise
from gradtx._primitives.norms import sum_of_scaled_squares


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

    ignores_zeros: ClassVar[bool] = True

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

    ignores_zeros: ClassVar[bool] = True

    def update_tree(self, s: SimpleNamespace, updates: list[jax.Array]) -> list[jax.Array]:
        if not updates:
            return updates
        length, unit = scaled_norm(updates)
        too_long = length > s.max_norm * unit
        # Neither factor underflows: the unit keeps the length between 1e-10 and 1e20. Two products, and no division,
        # which XLA:CPU would rather write to memory than repeat in the programs of both moments.
        factor = jnp.where(too_long, s.max_norm / jnp.where(too_long, length, 1), 1)
        unit, factor = jnp.where(too_long, unit, 1), jnp.where(jnp.isfinite(length), factor, jnp.nan)

        def one(u: jax.Array) -> jax.Array:
            real = jnp.finfo(u.dtype).dtype
            return (u * unit.astype(real)) * factor.astype(real)

        return [one(u) for u in updates]


class normalize_by_update_norm(Treewise):
    r"""Divide all updates by their joint Euclidean norm: $u \leftarrow c u / (\lVert u \rVert_2 + \epsilon)$.

    The norm is summed in float32 (or wider) and does not overflow.

    Args:
        scale_factor: $c$, the norm of what comes out; may be a schedule.
        eps: $\epsilon \ge 0$. With 0 an update of zero stays zero.

    State:
        none.
    """

    scale_factor: Any = number_field(default=1.0)
    eps: Any = number_field(default=1e-6, minimum=0.0)

    ignores_zeros: ClassVar[bool] = True

    def update_tree(self, s: SimpleNamespace, updates: list[jax.Array]) -> list[jax.Array]:
        length, unit = scaled_norm(updates)
        below = length + s.eps * unit
        zero = below == 0
        factor = jnp.where(zero, 0, s.scale_factor / jnp.where(zero, 1, below))

        def one(u: jax.Array) -> jax.Array:
            real = jnp.finfo(u.dtype).dtype
            return (u * unit.astype(real)) * factor.astype(real)

        return [one(u) for u in updates]


def global_norm(updates: Any) -> jax.Array:
    """The Euclidean norm of all leaves together, in float32 or wider; 0 for an empty tree.

    Its squares do not overflow, whatever finite values the leaves hold.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(updates)]
    leaves = [x if is_inexact(x.dtype) else x.astype(scalar_dtype()) for x in leaves]
    length, unit = scaled_norm([x.astype(compute_dtype(x.dtype)) for x in leaves])
    return length / unit


def scaled_norm(arrays: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The norm of arrays that are float32 or wider, as `(length, unit)`: the norm is `length / unit`.

    The unit is 1, or 2**-96 where a square or their sum overflows: in Blue's algorithm (ACM TOMS 4(1), 1978) the range
    for large numbers. The one for small numbers is left out, since squares that underflow do not change a norm that a
    sensible limit could cut.
    """
    shrink = 2.0**-96  # the square of the largest float32, shrunk, leaves room for 2**64 elements
    plain = [jnp.sum(square(x)) for x in arrays]
    shrunk = [_sum_of_shrunk_squares(x, jnp.asarray(shrink, jnp.finfo(x.dtype).dtype)) for x in arrays]
    zero = jnp.zeros((), scalar_dtype())
    total, scaled = (sum((p.astype(zero.dtype) for p in parts), start=zero) for parts in (plain, shrunk))
    finite = jnp.isfinite(total)
    # A root and a quotient come last: XLA copies cheaper scalar operations, and all before them, into the program of
    # every leaf, which takes it minutes where there are a thousand.
    one = jnp.ones_like(zero)
    return safe_sqrt(jnp.where(finite, total, scaled)), one / jnp.where(finite, one, one / shrink)


def _sum_of_shrunk_squares(x: jax.Array, unit: jax.Array) -> jax.Array:
    """The careful form only for single elements, where XLA would reorder the product: elsewhere it costs a temporary."""
    return sum_of_scaled_squares(x, unit) if x.size == 1 else jnp.sum(square(x * unit))
