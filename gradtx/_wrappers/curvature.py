"""Sophia's step: a direction divided by the curvature that is estimated now and then, and clipped."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes
from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.safe import safe_divide
from gradtx._core.slots import zeros_like_parameter
from gradtx._core.stages import Step
from gradtx._primitives.averages import towards
from gradtx._wrappers.wrapping import Conditional, as_updates, cast_like, in_compute_dtype, inside


class CurvatureState(NamedTuple):
    """The state of `divide_by_curvature`.

    Attributes:
        inner: the state of the transformation whose updates are divided; its count is the step's.
        nu: like the parameters, float32 (float64 for float64 parameters): the average of the estimates, from zero.
        hessian_fn_state: the state of the transformation that estimates.
    """

    inner: Any
    nu: Any
    hessian_fn_state: Any


class DivideByCurvature(Conditional):
    """A direction divided by an estimated curvature. Build it with `divide_by_curvature`."""

    b2: Any = decay_field(default=0.99)
    eps: Any = number_field(default=1e-8, minimum=0.0)
    gamma: Any = number_field(default=0.01, minimum=0.0)
    clip_threshold: Any = number_field(default=1.0, minimum=0.0, optional=True)
    update_interval: int = 10
    print_win_rate_every_n_steps: int = 0

    held: ClassVar[tuple[str, ...]] = ("inner", "hessian_fn_state")
    built_by: ClassVar[str] = "divide_by_curvature"
    state_type: ClassVar[Any] = CurvatureState

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.update_interval, int) or self.update_interval < 1:
            raise ValueError(
                f"sophia(update_interval=...): expected an int of at least 1, got {self.update_interval!r}"
            )

    @property
    def ignores_zeros(self) -> bool:  # type: ignore[override]
        """Not where it prints a share of the elements."""
        return not self.print_win_rate_every_n_steps

    def init(self, params: Any) -> CurvatureState:
        direction, hessian = self.transforms
        nu = jax.tree.map(lambda p: zeros_like_parameter(p, dtypes.compute_dtype(np.dtype(p.dtype))), params)
        return CurvatureState(direction.init(params), nu, hessian.init(params))

    def advance(self, updates: Any, state: CurvatureState, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("sophia needs the parameters: call update(gradients, state, params); params was None")
        direction, hessian = self.transforms
        gradients, count = in_compute_dtype(updates, params), state.inner.count
        towards_minimum, inner = direction.update(gradients, state.inner, params, **extra)
        step = Step(count, count.astype(dtypes.scalar_dtype()) + 1, {})
        gamma, eps = step.value(self.gamma), step.value(self.eps)
        limit = None if self.clip_threshold is None else step.value(self.clip_threshold)

        direction_now = cast_like(towards_minimum, state.nu)
        divided = jax.tree.map(lambda u, h: _divided(u, h, gamma, eps), direction_now, state.nu)
        if limit is not None:
            self._report(divided, limit, count + 1)
            divided = jax.tree.map(lambda u: _clipped(u, limit), divided)

        def estimate() -> tuple[Any, Any]:
            found, after = hessian.update(gradients, state.hessian_fn_state, params, **extra)
            rate = step.complement(self.b2)
            new = jax.tree.map(lambda n, h: _moved(n, h, rate), state.nu, cast_like(found, state.nu))
            return new, cast_like(after, state.hessian_fn_state)

        due = count % self.update_interval == 0
        nu, after = jax.lax.cond(
            due,
            estimate,
            lambda: (cast_like(state.nu, state.nu), cast_like(state.hessian_fn_state, state.hessian_fn_state)),
        )
        return as_updates(self, divided, updates, params), CurvatureState(inner, nu, after)

    def _report(self, divided: Any, limit: jax.Array, t: jax.Array) -> None:
        every, leaves = self.print_win_rate_every_n_steps, jax.tree.leaves(divided)
        if not every:
            return
        kept = sum(jnp.sum(jnp.abs(u) < limit.astype(u.dtype)) for u in leaves)
        rate = kept / max(sum(u.size for u in leaves), 1)
        jax.lax.cond(t % every == 0, lambda: jax.debug.print("Sophia optimizer win rate: {}", rate), lambda: None)


# Jitted, so that leaves of one shape are traced once.


@jax.jit
def _divided(u: jax.Array, h: jax.Array, gamma: jax.Array, eps: jax.Array) -> jax.Array:
    if jnp.iscomplexobj(u):
        raise TypeError("sophia: expected real parameters, got complex ones, whose curvatures have no order")
    return safe_divide(u, jnp.maximum(gamma.astype(h.dtype) * h, eps.astype(h.dtype)))


@jax.jit
def _clipped(u: jax.Array, limit: jax.Array) -> jax.Array:
    return jnp.clip(u, -limit.astype(u.dtype), limit.astype(u.dtype))


@jax.jit
def _moved(nu: jax.Array, estimate: jax.Array, rate: jax.Array) -> jax.Array:
    return towards(nu, estimate, rate.astype(nu.dtype))


def divide_by_curvature(
    direction: Any,
    hessian_diagonal_fn: Any,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    gamma: Any = 0.01,
    clip_threshold: Any = 1.0,
    update_interval: int = 10,
    print_win_rate_every_n_steps: int = 0,
) -> DivideByCurvature:
    r"""Divide what a transformation gives by a moving average of estimated curvatures, and clip every element.

    $$u_t = \operatorname{clip} \left( \frac{d_t}{\max(\gamma h_{t-1}, \epsilon)}, \rho \right), \qquad
      h_t = b_2 h_{t-1} + (1 - b_2) \hat h_t$$

    The average is moved in the first of every `update_interval` steps. What is estimated in a step serves from the next
    one on, as in Optax (in the paper at once), so the very first step is one of signs.

    Args:
        direction: the transformation that gives $d$, gradtx's or Optax's as a `chain`.
        hessian_diagonal_fn: the one that gives $\hat h$ from the gradients, the parameters and keywords of `update`.
        b2: the decay of the average, in [0, 1); may be a schedule.
        eps: $\epsilon \ge 0$, the smallest curvature.
        gamma: $\gamma \ge 0$; may be a schedule.
        clip_threshold: $\rho \ge 0$; None does not clip.
        update_interval: the steps from one estimate to the next, an int >= 1.
        print_win_rate_every_n_steps: after how many steps to print the share of elements that are not clipped; 0: never.

    Returns:
        A transformation whose state is a `CurvatureState`.

    Source:
        Liu et al., "Sophia", arXiv:2305.14342, Algorithm 3, lines 6-13.
    """
    transforms = tuple(inside("divide_by_curvature", tx, rewritten=True) for tx in (direction, hessian_diagonal_fn))
    numbers = (b2, eps, gamma, clip_threshold, update_interval, print_win_rate_every_n_steps)
    return DivideByCurvature(transforms, *numbers)
