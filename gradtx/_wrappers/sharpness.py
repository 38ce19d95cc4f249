"""Sharpness-aware minimization: climb first, and descend by the gradient from there."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes, foreign, trees
from gradtx._core.slots import Slot, initial_array, scalar_like_parameters
from gradtx._wrappers.wrapping import Conditional, as_updates, cast_like, in_compute_dtype, inside


class SAMState(NamedTuple):
    """The state of `sam`.

    Attributes:
        steps_since_sync: int32 scalar, the steps up since the last step of the optimizer; 0 in opaque mode.
        opt_state: the state of the optimizer.
        adv_state: the state of the one that climbs.
        cache: like the parameters, in their dtypes: where the climb began; None where no call needs it.
    """

    steps_since_sync: jax.Array
    opt_state: Any
    adv_state: Any
    cache: Any

    @property
    def inner(self) -> Any:
        """The state of the optimizer."""
        return self.opt_state


class SharpnessAware(Conditional):
    """An optimizer behind one that climbs. Build it with `sam`."""

    sync_period: int = 2
    reset_state: bool = True
    opaque_mode: bool = False
    batch_axis_name: str | None = None

    held: ClassVar[tuple[str, ...]] = ("opt_state", "adv_state")
    built_by: ClassVar[str] = "sam"
    state_type: ClassVar[Any] = SAMState

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.sync_period, bool) or not isinstance(self.sync_period, int) or self.sync_period < 1:
            raise ValueError(f"sam(sync_period=...): expected an int of at least 1, got {self.sync_period!r}")

    @property
    def ignores_zeros(self) -> bool:  # type: ignore[override]
        """Not where it calls a function of the parameters."""
        return not self.opaque_mode

    def init(self, params: Any) -> SAMState:
        steps = scalar_like_parameters(jax.tree.leaves(params), (), np.dtype(np.int32))
        cache = None
        if not self.opaque_mode and self.sync_period > 1:
            slot = Slot("cache", initial="parameter")
            leaves, treedef = trees.flatten(params, "the parameter")
            cache = jax.tree.unflatten(treedef, [initial_array(slot, p, np.dtype(p.dtype)) for p in leaves])
        optimizer, climber = self.transforms
        return SAMState(steps, optimizer.init(params), climber.init(params), cache)

    def advance(self, updates: Any, state: SAMState, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("sam needs the parameters: call update(gradients, state, params); params was None")
        extra = dict(extra)
        grad_fn = extra.pop("grad_fn", None)
        gradients = in_compute_dtype(updates, params)
        if self.opaque_mode and grad_fn is None:
            raise foreign.missing_keyword("sam(opaque_mode=True)", "grad_fn", extra)
        if self.opaque_mode or self.sync_period == 1:
            new, state = self._all_at_once(gradients, state, params, grad_fn, extra)
        else:
            new, state = self._one_at_a_time(gradients, state, params, extra)
        return as_updates(self, new, updates, params), state

    def _one_at_a_time(self, gradients: Any, state: SAMState, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        optimizer, climber = self.transforms
        first, last = state.steps_since_sync == 0, state.steps_since_sync == self.sync_period - 1
        cache = jax.tree.map(lambda p, kept: jnp.where(first, p, kept), params, state.cache)

        def descend() -> Any:
            down, after = optimizer.update(gradients, state.opt_state, cache, **extra)
            back = jax.tree.map(lambda c, p: c - p, in_compute_dtype(cache, params), in_compute_dtype(params, params))
            adv = climber.init(params) if self.reset_state else state.adv_state
            return _like(jax.tree.map(jnp.add, back, down), gradients), after, adv

        def climb() -> Any:
            down, after = climber.update(gradients, state.adv_state, params, **extra)
            return _like(jax.tree.map(jnp.negative, down), gradients), state.opt_state, after

        def kept(move: Any) -> Any:
            update, opt, adv = move()
            return update, cast_like(opt, state.opt_state), cast_like(adv, state.adv_state)

        update, opt, adv = jax.lax.cond(last, lambda: kept(descend), lambda: kept(climb))
        return update, SAMState(jnp.where(last, 0, state.steps_since_sync + 1), opt, adv, cache)

    def _all_at_once(
        self, gradients: Any, state: SAMState, params: Any, grad_fn: Any, extra: dict[str, Any]
    ) -> tuple[Any, Any]:
        optimizer, climber = self.transforms
        here, adv = params, state.adv_state
        for i in range(self.sync_period - 1):
            down, adv = climber.update(gradients, adv, here, **extra)
            with jax.numpy_dtype_promotion("standard"):
                here = jax.tree.map(lambda p, d: dtypes.cast(p - d, p.dtype), here, down)
            gradients = in_compute_dtype(grad_fn(here, i), params)
            if self.batch_axis_name is not None:
                gradients = jax.lax.pmean(gradients, self.batch_axis_name)
        update, opt = optimizer.update(gradients, state.opt_state, params, **extra)
        adv = climber.init(params) if self.reset_state else adv
        return update, SAMState(state.steps_since_sync, opt, cast_like(adv, state.adv_state), state.cache)


def _like(updates: Any, gradients: Any) -> Any:
    """Updates of either branch in one dtype: that of the arithmetic."""
    return jax.tree.map(lambda u, g: dtypes.cast(u, g.dtype), updates, gradients)


def sam(
    optimizer: Any,
    adv_optimizer: Any,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> SharpnessAware:
    r"""Sharpness-aware minimization: step by the gradient at a point nearby where the loss is high.

    $$p \leftarrow p + u\left( \nabla L(p + \epsilon) \right), \qquad \epsilon = \rho \frac{\nabla L(p)}{\lVert \nabla L(p) \rVert_2}$$

    for `sam(sgd(0.1), chain(normalize(), sgd(rho)))`: `adv_optimizer` is written to descend, and is made to climb.

    As it is, every call of `update` is one step: `sync_period - 1` of them lead up, the next one goes back to where the
    climb began and steps from there. Only then are the parameters those that are trained. With `opaque_mode=True` one call
    does it all, and needs the gradient as a function: `update(grads, state, params, grad_fn=grad_fn)`, called as
    `grad_fn(params, i)` for the `i`-th point of the climb. It is static: outside `jit`, pass the same one each time.

    Args:
        optimizer: the transformation that trains, gradtx's or Optax's.
        adv_optimizer: the transformation that climbs.
        sync_period: the calls in one round, or in opaque mode the gradients in one call, an int >= 1; 1 does not climb.
        reset_state: whether `adv_optimizer` starts each climb anew.
        opaque_mode: whether one call is a whole round.
        batch_axis_name: in opaque mode the mapped axis over which gradients are averaged, where there is one.

    Returns:
        A transformation whose state is a `SAMState`.

    Raises:
        ValueError: `sync_period` is not an int >= 1; from `update`, if the parameters are missing.
        TypeError: from `update`, in opaque mode, if `grad_fn` is missing.

    Source:
        Foret, Kleiner, Mobahi & Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization",
        arXiv:2010.01412, Algorithm 1.
    """
    transforms = (inside("sam", optimizer), inside("sam", adv_optimizer, rewritten=True))
    return SharpnessAware(transforms, sync_period, reset_state, opaque_mode, batch_axis_name)
