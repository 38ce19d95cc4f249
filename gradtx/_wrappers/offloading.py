"""The state of an optimizer in host memory, brought to the device for each step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax

from gradtx._core import trees
from gradtx._core.functions import split_keywords
from gradtx._core.transform import Transform, Wrapper
from gradtx._placements import MIN_SIZE
from gradtx._sharding import in_memory
from gradtx._wrappers.streaming import streamed
from gradtx._wrappers.wrapping import inside


class OffloadState(Wrapper):
    """A transformation whose state lies in host memory. Build it with `offload_state`."""

    min_size: int = MIN_SIZE

    built_by: ClassVar[str] = "offload_state"
    transparent: ClassVar[bool] = True

    # ---- Optax's protocol ----

    def init(self, params: Any) -> Any:
        return jax.tree.map(lambda x: _committed(in_memory(x, self._home(x))), self.tx.init(params))

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        trees.fitting(updates, params)
        static, arrays = split_keywords(extra, "offload_state")
        placed = self if params is None else self._placed_at(params)
        return _update(static, placed, updates, state, params, arrays)

    # ---- what `gradtx.step` does ----

    def _placed_at(self, params: Any) -> Self:
        tx = self.tx._placed_at(params)
        return self if tx is self.tx else self._with(transforms=(tx,))

    def _step(
        self, apply: Callable[[Any, Any], Any], params: Any, state: Any, grads: Any, extra: dict[str, Any]
    ) -> tuple[Any, Any]:
        return streamed(lambda brought: self.tx._step(apply, params, brought, grads, extra), state, self._home)

    def _home(self, x: Any) -> Any:
        return jax.memory.Space.Host if math.prod(x.shape) >= self.min_size else jax.memory.Space.Device

    def _expression(self) -> str:
        return f"offload_state({self.tx!r}, min_size={self.min_size!r})"


def _committed(x: Any) -> Any:
    """An array that stays where it is. A step returns all of its results so, and would else be compiled again for them."""
    return jax.device_put(x, x.sharding) if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) else x


@functools.partial(jax.jit, static_argnums=0)
def _update(
    static: tuple[tuple[str, Any], ...],
    tx: OffloadState,
    updates: Any,
    state: Any,
    params: Any,
    extra: dict[str, Any],
) -> tuple[Any, Any]:
    with jax.named_scope("offload_state"):
        given = {**dict(static), **extra}
        return streamed(lambda brought: tx.tx.update(updates, brought, params, **given), state, tx._home)


def offload_state(tx: Transform, *, min_size: int = MIN_SIZE) -> OffloadState:
    r"""Keep the state of `tx` in the host's memory (`memory_kind="pinned_host"`).

    The slots of one parameter are brought to the device, used and returned, and then those of the next: the compiler is
    held to bring a parameter's when those of the last but one are back, so that the device's memory holds those of two
    at a time, however many there are. A step sends the bytes of the state over the host's link twice, once each way. The
    numbers are those of the same jitted step of `tx` alone, bit for bit. Arrays of fewer than `min_size` elements, the step
    count among them, stay on the device. What a stage needs of all parameters at once (Prodigy) comes at once, and so does the state of
    a wrapper that decides whether to step (`accumulate_gradients`, `skip_nonfinite`). Optax's stages are brought as they
    go from array to array.

    Put it outermost, around `shard_state` too: then each device brings and returns its own part. The state has the
    structure of `tx.init`, and `state_shardings` and `abstract_state` say which arrays lie in host memory, so checkpoints
    of both restore into each other.

    Arrays in host memory are committed to their device, and so is all that a step returns. Place the parameters with
    `jax.device_put`, or the second call of a jitted step compiles it again, for committed ones. JAX cannot transpose a
    transfer between memories: `jax.grad` through two steps or more raises its error, `jax.jacfwd` works.

    Args:
        tx: a transformation, gradtx's or Optax's.
        min_size: how many elements an array of the state has to have at least to leave the device.

    Raises:
        TypeError: `tx` is no transformation.
        ValueError: `min_size` is no integer >= 0.

    Source:
        Ren et al., "ZeRO-Offload", arXiv:2101.06840; there the host computes the update as well, here the device does.
    """
    if not isinstance(min_size, int) or isinstance(min_size, bool) or min_size < 0:
        raise ValueError(f"offload_state(min_size=...): expected an integer >= 0, got {min_size!r}")
    return OffloadState((inside("offload_state", tx),), min_size)
