"""Clipping unit by unit: each neuron's update by the norm of its weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import number_field
from gradtx._core.safe import safe_sqrt, square
from gradtx._core.signal import Signal
from gradtx._core.stages import Leafwise

# The axes that lead into one unit, by the number of axes; a dense layer's kernel is (in, out), a convolution's (H, W, in,
# out), and one of three axes is taken for a layer with several heads.
_INPUT_AXES = {2: (0,), 3: (0,), 4: (0, 1, 2), 5: (0, 1, 2, 3)}


def unitwise_norm(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """The Euclidean norm of each unit of an array, that is of each slice along some axes.

    Args:
        x: a floating or complex array of any shape.
        axis: the axes of one unit. None: all of a scalar or a vector, the first of two or three axes, all but the last
            of four or five.

    Returns:
        A real array of as many axes as `x`, with length 1 along those of a unit. Its squares neither over- nor
        underflow where `x` does not.

    Raises:
        ValueError: more than five axes, and `axis` is None.
    """
    if axis is None:
        if len([n for n in x.shape if n != 1]) <= 1:
            axis = tuple(range(x.ndim))
        elif x.ndim in _INPUT_AXES:
            axis = _INPUT_AXES[x.ndim]
        else:
            raise ValueError(
                f"unitwise_norm: expected an array of at most five axes, got one of shape {x.shape}; say with `axis` which "
                "of them lead into a unit"
            )
    if not x.size:
        return jnp.sqrt(jnp.sum(square(x), axis=axis, keepdims=True))
    largest = jnp.max(jnp.maximum(jnp.abs(x.real), jnp.abs(x.imag)), axis=axis, keepdims=True)
    usual = (largest > 0) & jnp.isfinite(largest)
    # A power of two, so that dividing by it costs no digits.
    unit = jax.lax.stop_gradient(jnp.where(usual, jnp.exp2(jnp.floor(jnp.log2(jnp.where(usual, largest, 1)))), 1))
    return unit * safe_sqrt(jnp.sum(square(x / unit), axis=axis, keepdims=True))


class adaptive_grad_clip(Leafwise):
    r"""Scale the update of each unit down to at most a share of the norm of its parameters.

    $$u_i \leftarrow u_i \min\left(1, \lambda \frac{\max(\lVert p_i \rVert, \epsilon)}{\lVert u_i \rVert}\right)$$

    Args:
        clipping: $\lambda \ge 0$, the largest ratio of the norms.
        eps: $\epsilon \ge 0$, which lets parameters that start at zero move.
        axis: the axes of a unit, see `unitwise_norm`.

    State:
        none.

    Source:
        Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization", arXiv:2102.06171,
        equation 3.
    """

    clipping: Any = number_field(minimum=0.0)
    eps: Any = number_field(default=1e-3, minimum=0.0)
    axis: Any = None

    requires: ClassVar[tuple[str, ...]] = ("param",)
    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: dict[str, jax.Array], signal: Signal) -> Signal:
        assert signal.param is not None
        largest = s.clipping * jnp.maximum(unitwise_norm(signal.param, self.axis), s.eps)
        norm = unitwise_norm(signal.update, self.axis)
        too_long = norm > largest
        direction = signal.update / jnp.where(too_long, norm, 1)
        return signal.write(direction * jnp.where(too_long, largest, 1))
