"""Loss scaling for float16: gradients too small for the format are scaled up before they exist."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.dtypes import scalar_dtype
from gradtx._core.hyperparameters import number_field
from gradtx._core.slots import scalar_like_parameters
from gradtx._wrappers.wrapping import (
    Conditional,
    all_finite,
    find_state,
    in_compute_dtype,
    increment,
    inside,
    step_or_stay,
)


class LossScaleState(NamedTuple):
    """The state of `dynamic_loss_scale`.

    Attributes:
        scale: float scalar, by which the next loss is to be multiplied.
        good_steps: int32 scalar, the steps since the scale last changed.
        skipped: int32 scalar, the steps skipped so far because a gradient overflowed.
        inner: the state of the transformation inside.
    """

    scale: jax.Array
    good_steps: jax.Array
    skipped: jax.Array
    inner: Any


class DynamicLossScale(Conditional):
    """A transformation of scaled gradients. Build it with `dynamic_loss_scale`."""

    initial_scale: Any = number_field(default=2.0**15, minimum=0.0)
    growth_interval: int = 2000
    growth_factor: Any = number_field(default=2.0, minimum=1.0)
    backoff_factor: Any = number_field(default=0.5, minimum=0.0)
    min_scale: Any = number_field(default=1.0, minimum=0.0)
    max_scale: Any = number_field(default=2.0**24, minimum=0.0)

    built_by: ClassVar[str] = "dynamic_loss_scale"
    state_type: ClassVar[Any] = LossScaleState
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.growth_interval, int) or self.growth_interval < 1:
            raise ValueError(
                f"dynamic_loss_scale(growth_interval=...): expected an int of at least 1, got {self.growth_interval!r}"
            )
        for name in ("initial_scale", "growth_factor", "backoff_factor", "min_scale", "max_scale"):
            value = getattr(self, name)
            if callable(value):
                raise TypeError(f"dynamic_loss_scale({name}=...): expected a number, got the schedule {value!r}")
            if isinstance(value, float) and value <= 0:
                raise ValueError(f"dynamic_loss_scale({name}=...): expected a number > 0, got {value:g}")
        if isinstance(self.backoff_factor, float) and self.backoff_factor >= 1:
            raise ValueError(
                f"dynamic_loss_scale(backoff_factor=...): expected a number < 1, got {self.backoff_factor:g}"
            )

    def init(self, params: Any) -> LossScaleState:
        leaves = jax.tree.leaves(params)
        good, skipped = (scalar_like_parameters(leaves, (), np.dtype(np.int32)) for _ in range(2))
        scale = scalar_like_parameters(leaves, (), scalar_dtype()) + jnp.asarray(self.initial_scale, scalar_dtype())
        return LossScaleState(scale, good, skipped, self.tx.init(params))

    def advance(self, updates: Any, state: LossScaleState, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        scale = state.scale
        with jax.numpy_dtype_promotion("standard"):  # a complex gradient by a real scale
            gradients = jax.tree.map(lambda g: g / scale.astype(g.real.dtype), in_compute_dtype(updates, params))
        finite = all_finite(gradients)
        new_updates, inner = step_or_stay(finite, self.tx, gradients, state.inner, params, extra, like=updates)
        good = jnp.where(finite, state.good_steps + 1, 0)
        grows = good >= self.growth_interval
        numbers = (self.growth_factor, self.max_scale, self.backoff_factor, self.min_scale)
        growth, most, backoff, least = (jnp.asarray(x, scale.dtype) for x in numbers)
        larger, smaller = jnp.minimum(scale * growth, most), jnp.maximum(scale * backoff, least)
        scale = jnp.where(finite, jnp.where(grows, jnp.maximum(larger, scale), scale), jnp.minimum(smaller, scale))
        skipped = jnp.where(finite, state.skipped, increment(state.skipped))
        return new_updates, LossScaleState(scale, jnp.where(grows, 0, good), skipped, inner)


def dynamic_loss_scale(
    tx: Any,
    initial_scale: Any = 2.0**15,
    growth_interval: int = 2000,
    growth_factor: Any = 2.0,
    backoff_factor: Any = 0.5,
    min_scale: Any = 1.0,
    max_scale: Any = 2.0**24,
) -> DynamicLossScale:
    """Undo the scale of a loss, and find the largest one that does not overflow.

    float16 has no gradients below 6e-8. Multiply the loss by `loss_scale(state)` before differentiating, and give the
    scaled gradients to this transformation: it divides them in float32. If one is then not finite, it skips the step
    (zero updates, the state of `tx` as it was) and makes the scale smaller; after `growth_interval` steps without that it
    makes it larger. bfloat16 and float32 need none of this.

    Args:
        tx: a transformation, gradtx's or Optax's, of the unscaled gradients; it gets them in float32.
        initial_scale: the first scale, > 0. Powers of two cost no digits.
        growth_interval: the steps after which the scale grows, an int >= 1.
        growth_factor: by how much it grows, >= 1.
        backoff_factor: by how much it shrinks at an overflow, in (0, 1).
        min_scale: it does not shrink below that.
        max_scale: it does not grow beyond that.

    Returns:
        A transformation whose state is a `LossScaleState`; `loss_scale(state)` reads the scale.

    Raises:
        ValueError: a number is out of its range.

    Source:
        Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, section 3.2; the constants are PyTorch's
        `GradScaler`'s, with half its initial scale.
    """
    numbers = (initial_scale, growth_interval, growth_factor, backoff_factor, min_scale, max_scale)
    return DynamicLossScale((inside("dynamic_loss_scale", tx),), *numbers)


def loss_scale(state: Any) -> jax.Array:
    """By how much to multiply the next loss.

    Args:
        state: a state with a `LossScaleState` anywhere in it.

    Returns:
        float32 scalar (float64 under x64); cast it to the loss's dtype where promotion is strict.
    """
    return find_state(state, LossScaleState, "dynamic_loss_scale").scale
