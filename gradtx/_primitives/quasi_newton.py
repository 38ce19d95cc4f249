"""L-BFGS: the gradient times an inverse Hessian that the last steps have shown, without a matrix."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.dtypes import scalar_dtype
from gradtx._core.slots import Slot
from gradtx._core.stages import Leaves, Step, Treewise
from gradtx._primitives.norms import tree_norm

Arrays = list[jax.Array]


class scale_by_lbfgs(Treewise):
    r"""Multiply the update by the inverse Hessian that the last steps and changes of the gradient let one expect.

    $$u \leftarrow H_t u, \qquad H \leftarrow (I - \rho y s^\top)^\top H (I - \rho y s^\top) + \rho s s^\top, \qquad
    \rho = \frac{1}{y^\top s}$$

    for the last `memory_size` pairs of steps $s = p_t - p_{t-1}$ and changes of the gradient $y = g_t - g_{t-1}$, from the
    oldest on, starting from $H = \gamma I$ with $\gamma = s^\top y / y^\top y$ of the last pair. It takes two passes over the
    pairs and forms no matrix. A pair without curvature ($s^\top y = 0$) is of no account. Where the last pair is such a
    one, and at the first step, $\gamma = \min(1, 1 / \lVert g \rVert)$, a step of length 1 at most.

    Args:
        memory_size: how many pairs to keep, >= 1.
        scale_init_precond: whether to start from $\gamma I$, or else from $I$.

    State:
        `params`, `updates`: the last parameters and gradients. `diff_params_memory`, `diff_updates_memory`: $s$ and $y$,
        with an axis of `memory_size` in front, both divided by $\lVert y \rVert$, so that no product of them over- or
        underflows ($H$ stays the same). `weights_memory`: float[memory_size], $\rho$.

    Source:
        Nocedal & Wright, "Numerical Optimization" (2nd edition, 2006), Algorithm 7.4 and equations 7.19 and 7.20; Liu &
        Nocedal, "On the Limited Memory BFGS Method for Large Scale Optimization", Mathematical Programming 45 (1989).
    """

    memory_size: int = 10
    scale_init_precond: bool = True

    requires: ClassVar[tuple[str, ...]] = ("param",)
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.memory_size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"scale_by_lbfgs(memory_size=...): expected an integer >= 1, got {size!r}")

    def slots(self) -> tuple[Slot, ...]:
        def stacked(shape: tuple[int, ...]) -> tuple[int, ...]:
            return (self.memory_size, *shape)

        def axes(shape: tuple[int, ...]) -> tuple[int | None, ...]:
            return (None, *range(len(shape)))

        return (
            Slot("params"),
            Slot("updates"),
            Slot("diff_params_memory", role="factored", shape=stacked, axes=axes),
            Slot("diff_updates_memory", role="factored", shape=stacked, axes=axes),
            Slot("weights_memory", role="scalar", shape=(self.memory_size,)),
        )

    def scalars(self, step: Step) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        return {"oldest": step.count % self.memory_size, "started": step.count > 0}, {}

    def update_leaves(self, s: SimpleNamespace, leaves: Leaves) -> Leaves:
        gradients: Arrays = [signal.update for signal in leaves.signals]
        params: Any = [signal.param for signal in leaves.signals]
        if not gradients:
            return leaves
        oldest = s.oldest.astype(jnp.int32)
        newest = (oldest - 1) % self.memory_size

        steps: Arrays = [p - old["params"] for p, old in zip(params, leaves.slots, strict=True)]
        changes: Arrays = [g - old["updates"] for g, old in zip(gradients, leaves.slots, strict=True)]
        size = tree_norm(changes)
        known = (s.started > 0) & (size > 0)
        size = jnp.where(known, size, 1)
        steps, changes = (
            [jnp.where(known, x / size.astype(jnp.finfo(x.dtype).dtype), 0) for x in xs] for xs in (steps, changes)
        )
        curvature = _dot(steps, changes)
        curved = curvature != 0
        weight = jnp.where(curved, 1 / jnp.where(curved, curvature, 1), 0)

        weights = leaves.memory["weights_memory"]
        weights = weights.at[newest].set(weight.astype(weights.dtype))
        all_steps, all_changes = (
            [old[name].at[newest].set(new) for old, new in zip(leaves.slots, news, strict=True)]
            for name, news in (("diff_params_memory", steps), ("diff_updates_memory", changes))
        )
        start = jnp.ones_like(curvature)
        if self.scale_init_precond:
            length = tree_norm(gradients)
            start = jnp.where(curved, curvature, 1 / jnp.maximum(length, 1))
        direction = _two_loops(gradients, all_steps, all_changes, weights, start, oldest)

        signals = [signal.write(d) for signal, d in zip(leaves.signals, direction, strict=True)]
        names = ("params", "updates", "diff_params_memory", "diff_updates_memory")
        columns = zip(params, gradients, all_steps, all_changes, strict=True)
        slots = [dict(zip(names, arrays, strict=True)) for arrays in columns]
        return leaves.replace(signals=signals, slots=slots, memory={"weights_memory": weights})


def _two_loops(
    gradients: Arrays, steps: Arrays, changes: Arrays, weights: jax.Array, start: jax.Array, oldest: jax.Array
) -> Arrays:
    """The gradient times the inverse Hessian: through the pairs from the newest to the oldest, and back."""
    count = weights.shape[0]
    order = (oldest + jnp.arange(count, dtype=jnp.int32)) % count

    def down(q: Arrays, i: jax.Array) -> tuple[Arrays, jax.Array]:
        share = weights[i] * _dot([x[i] for x in steps], q)
        return _add(q, -share, [x[i] for x in changes]), share

    def up(r: Arrays, pair: tuple[jax.Array, jax.Array]) -> tuple[Arrays, None]:
        i, share = pair
        back = weights[i] * _dot([x[i] for x in changes], r)
        return _add(r, share - back, [x[i] for x in steps]), None

    q, shares = jax.lax.scan(down, gradients, order, reverse=True)
    r = [start.astype(jnp.finfo(x.dtype).dtype) * x for x in q]
    return jax.lax.scan(up, r, (order, shares))[0]


def _add(xs: Arrays, factor: jax.Array, ys: Arrays) -> Arrays:
    return [x + factor.astype(jnp.finfo(x.dtype).dtype) * y for x, y in zip(xs, ys, strict=True)]


def _dot(xs: Arrays, ys: Arrays) -> jax.Array:
    """The real part of the inner product of all leaves; not by a matrix unit, which would round to 16 bits."""
    parts = [jnp.sum((x.conj() * y).real).astype(scalar_dtype()) for x, y in zip(xs, ys, strict=True)]
    return sum(parts, start=jnp.zeros((), scalar_dtype()))
