"""Polyak's step size: as far as a straight descent to the least value would go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.dtypes import scalar_dtype
from gradtx._core.hyperparameters import number_field
from gradtx._core.stages import Leaves, Treewise
from gradtx._primitives.norms import norm_of_updates


class scale_by_polyak(Treewise):
    r"""Multiply the update by Polyak's step size, limited from above.

    $$u \leftarrow \min\left(\frac{f - f_{\min}}{\lVert u \rVert^2 + \epsilon}, \eta_{\max}\right) u$$

    $f$ is the loss at the parameters: `update(gradients, state, params, value=loss)`. The norm is that of all leaves
    together. An update of zero stays zero.

    Args:
        f_min: the least value that the loss can have; may be a schedule.
        max_learning_rate: $\eta_{\max}$; may be a schedule.
        eps: $\epsilon \ge 0$.
        variant: `"sps"`, or `"sps+"`, which takes a loss below `f_min` as `f_min`.

    State:
        none.

    Raises:
        TypeError: `update` was not given `value`.
        ValueError: `value` is no scalar; another variant.

    Source:
        Loizou et al., "Stochastic Polyak Step-size for SGD", arXiv:2002.10542, equation 3; `"sps+"`: Garrigos,
        Gower & Schaipp, "Function Value Learning", arXiv:2307.14528.
    """

    f_min: Any = number_field(default=0.0)
    max_learning_rate: Any = number_field(default=1.0)
    eps: Any = number_field(default=0.0, minimum=0.0)
    variant: str = "sps"

    keywords: ClassVar[tuple[str, ...]] = ("value",)
    ignores_zeros: ClassVar[bool] = True
    takes_apart: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in ("sps", "sps+"):
            raise ValueError(f"scale_by_polyak(variant=...): expected 'sps' or 'sps+', got {self.variant!r}")

    def update_leaves(self, s: SimpleNamespace, leaves: Leaves) -> Leaves:
        if jnp.shape(s.value):
            raise ValueError(f"scale_by_polyak: expected value= to be a scalar, got shape {jnp.shape(s.value)}")
        if not leaves.signals:
            return leaves
        norm = norm_of_updates(leaves.signals)
        gap = jnp.asarray(s.value, scalar_dtype()) - s.f_min
        if self.variant == "sps+":
            gap = jnp.maximum(gap, 0)
        zero = norm == 0
        norm = jnp.where(zero, 1, norm)
        # The direction and how far to go along it: the square of the norm, and the step size, might over- or underflow.
        length = jnp.where(zero, 0, jnp.minimum(gap / (norm + s.eps / norm), s.max_learning_rate * norm))

        return leaves.with_updates([_along(signal.update, norm, length) for signal in leaves.signals])


@jax.jit
def _along(u: jax.Array, norm: jax.Array, length: jax.Array) -> jax.Array:
    real = jnp.finfo(u.dtype).dtype
    return (u / norm.astype(real)) * length.astype(real)
