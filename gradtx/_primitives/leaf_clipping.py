"""Clipping leaf by leaf: by the norm of the update, or by how much the gradient exceeds its second moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import number_field
from gradtx._core.safe import safe_divide
from gradtx._core.signal import Signal
from gradtx._core.stages import Leafwise
from gradtx._primitives.norms import leaf_norm, leaf_rms

Slots = dict[str, jax.Array]


class clip_by_leaf_norm(Leafwise):
    r"""Scale each leaf's update down so that its Euclidean norm is at most `max_norm`.

    $$u \leftarrow u \cdot \min(1, \text{max\_norm} / \lVert u \rVert_2)$$

    The norm is taken in float32 (or wider) and neither overflows nor underflows where the leaf does not.

    Args:
        max_norm: the largest norm, >= 0; may be a schedule.

    State:
        none.

    Source:
        Pascanu, Mikolov & Bengio, arXiv:1211.5063, Algorithm 1, for every leaf by itself.
    """

    max_norm: Any = number_field(minimum=0.0)

    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        norm = leaf_norm(signal.update)
        fits = norm <= s.max_norm
        # The direction first: the quotient of the norms alone may underflow.
        return signal.write(signal.update / jnp.where(fits, 1, norm) * jnp.where(fits, 1, s.max_norm))


class clip_by_surprise(Leafwise):
    r"""Scale each leaf's update down where its gradient is large beside the second moment: AdaFactor's clipping for Adam.

    $$\text{RMS}_t = \sqrt{\text{mean}(|g_t|^2 / \max(v_t, \epsilon^2))}, \qquad u \leftarrow u / \max(1, \text{RMS}_t)$$

    A second moment that lags behind makes the root mean square larger than 1, and the step is shortened for it. Where
    `bias_correction` stands before it, $v_t$ is the corrected moment.

    Args:
        eps: $\epsilon \ge 0$.

    State:
        none.

    Raises:
        ValueError: no second moment was estimated before it in its scope.

    Source:
        Wortsman et al., "Stable and low-precision training for large-scale vision-language models",
        arXiv:2304.13013, Algorithm 2; after Shazeer & Stern, arXiv:1804.04235, section 6.
    """

    eps: Any = number_field(default=1e-8, minimum=0.0)

    requires: ClassVar[tuple[str, ...]] = ("second",)

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        assert signal.second is not None
        root = signal.second.root(jnp.zeros_like(signal.second.weight))
        surprise = safe_divide(jnp.abs(signal.captured), jnp.maximum(root, s.eps))
        return signal.write(signal.update / jnp.maximum(1, leaf_rms(surprise)))
