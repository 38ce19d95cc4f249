"""Scaling each leaf by norms of the whole leaf: its parameters', its update's, or the ratio of both."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import number_field
from gradtx._core.order import label
from gradtx._core.signal import Signal
from gradtx._core.stages import Leafwise
from gradtx._primitives.norms import leaf_norm, leaf_rms
from gradtx._primitives.weight_decay import mask_leaves

Slots = dict[str, jax.Array]


class scale_by_trust_ratio(Leafwise):
    r"""Give each leaf's update the norm of its parameters, times a coefficient.

    $$u \leftarrow \frac{u}{\lVert u \rVert + \epsilon} \cdot c \lVert p \rVert$$

    Where one of the norms is 0 the update stays as it is. Norms are taken in float32 (or wider) and neither overflow
    nor underflow where the leaf does not.

    Args:
        min_norm: both norms count as at least this much, >= 0.
        trust_coefficient: $c$.
        eps: $\epsilon \ge 0$.
        mask: which leaves are scaled: a tree of bools like the parameters (or a prefix of it), a function `params ->
            tree of bools`, or a predicate `(path, leaf) -> bool`. None: all.

    State:
        none.

    Source:
        You, Gitman & Ginsburg, "Large Batch Training of Convolutional Networks", arXiv:1708.03888, equation 6.
    """

    min_norm: Any = number_field(default=0.0, minimum=0.0)
    trust_coefficient: Any = number_field(default=1.0)
    eps: Any = number_field(default=0.0, minimum=0.0)
    mask: Any = None

    requires: ClassVar[tuple[str, ...]] = ("param",)
    ignores_zeros: ClassVar[bool] = True

    def applies(self, params: Any) -> list[bool] | None:
        return None if self.mask is None else mask_leaves(self.mask, params, label(self))

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        assert signal.param is not None
        param = jnp.maximum(leaf_norm(signal.param), s.min_norm)
        update = jnp.maximum(leaf_norm(signal.update), s.min_norm)
        undefined = (param == 0) | (update == 0)
        # The direction first: the ratio of the norms alone may overflow.
        direction = signal.update / jnp.where(undefined, 1, update + s.eps)
        return signal.write(direction * jnp.where(undefined, 1, s.trust_coefficient * param))


class scale_by_param_block_norm(Leafwise):
    r"""Multiply each leaf's update by the norm of its parameters: $u \leftarrow u \max(\lVert p \rVert, s)$.

    Args:
        min_scale: $s \ge 0$, the smallest factor.

    State:
        none.
    """

    min_scale: Any = number_field(default=1e-3, minimum=0.0)

    requires: ClassVar[tuple[str, ...]] = ("param",)
    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        assert signal.param is not None
        return signal.write(signal.update * jnp.maximum(leaf_norm(signal.param), s.min_scale))


class scale_by_param_block_rms(Leafwise):
    r"""Multiply each leaf's update by the root mean square of its parameters.

    $$u \leftarrow u \max(\text{RMS}(p), s)$$

    Args:
        min_scale: $s \ge 0$, the smallest factor.

    State:
        none.

    Source:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235, Algorithm 4, line 4 ("relative step sizes").
    """

    min_scale: Any = number_field(default=1e-3, minimum=0.0)

    requires: ClassVar[tuple[str, ...]] = ("param",)

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        assert signal.param is not None
        return signal.write(signal.update * jnp.maximum(leaf_rms(signal.param), s.min_scale))


class clip_by_block_rms(Leafwise):
    r"""Scale each leaf's update down so that its root mean square is at most a threshold.

    $$u \leftarrow u / \max(1, \text{RMS}(u) / d)$$

    Args:
        threshold: $d > 0$.

    State:
        none.

    Source:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235, section 6.
    """

    threshold: Any = number_field(minimum=0.0)

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return signal.write(signal.update / jnp.maximum(1, leaf_rms(signal.update) / s.threshold))


class shrinking_step(Leafwise):
    r"""Step against the update, and divide what results by the length that a step at right angles adds.

    $$u \leftarrow \frac{p - \eta u}{\sqrt{1 + \eta^2}} - p$$

    For an update of the parameters' norm and perpendicular to them, that keeps the norm. Computed without the difference:
    the factor on $p$ is $-\eta^2 / (1 + \eta^2 + \sqrt{1 + \eta^2})$.

    Args:
        learning_rate: $\eta$; may be a schedule.

    State:
        none.

    Source:
        Bernstein et al., "On the distance between two neural networks and the stability of learning",
        arXiv:2002.03432, Algorithm 1.
    """

    learning_rate: Any = number_field()

    requires: ClassVar[tuple[str, ...]] = ("param",)
    turns: ClassVar[Any] = True
    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        squared = s.learning_rate * s.learning_rate
        root = jnp.sqrt(1 + squared)
        step = (s.learning_rate / root) * signal.update
        turned = -(step + (squared / (1 + squared + root)) * signal.param)
        return signal.write(turned).replace(sense=signal.sense.turned())
