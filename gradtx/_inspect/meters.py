"""Ready probes: norms, ratios, angles, counts and statistics of what flows through a chain."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core import trees
from gradtx._core.chain import Chain, chain
from gradtx._core.dtypes import scalar_dtype
from gradtx._core.safe import safe_divide
from gradtx._inspect.probes import PREFIX, Probe, View, mark, size_of
from gradtx._primitives.clipping import global_norm


class Meter(Probe):
    """A ready probe.

    Args:
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.
        name: of the metric; None: that of the class.
    """

    per: Any = "tree"
    name: str | None = None


class gradient_norm(Meter):
    r"""Measure the Euclidean norm of the gradient: $n = \lVert g \rVert_2$.

    The gradient is what the first estimator before it saw, or without one what flows here: put it first for the raw one.

    Args:
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.
        name: of the metric; None: `gradient_norm`.

    State:
        a float32 scalar for each norm.
    """

    ignores_zeros: ClassVar[bool] = True

    def measure(self, view: View) -> jax.Array:
        return global_norm(view.gradients)


class update_norm(Meter):
    r"""Measure the Euclidean norm of the update here: $n = \lVert u \rVert_2$. Put it last for the step itself.

    Args:
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.
        name: of the metric; None: `update_norm`.

    State:
        a float32 scalar for each norm.
    """

    ignores_zeros: ClassVar[bool] = True

    def measure(self, view: View) -> jax.Array:
        return global_norm(view.updates)


class parameter_norm(Meter):
    r"""Measure the Euclidean norm of the parameters before the step: $n = \lVert p \rVert_2$.

    Args:
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.
        name: of the metric; None: `parameter_norm`.

    State:
        a float32 scalar for each norm.
    """

    requires: ClassVar[tuple[str, ...]] = ("param",)
    ignores_zeros: ClassVar[bool] = True

    def measure(self, view: View) -> jax.Array:
        return global_norm(view.params)


class update_ratio(Meter):
    r"""Measure how far a step goes, relative to the parameters: $r = \lVert u \rVert_2 / \lVert p \rVert_2$.

    Healthy training is said to be near 1e-3. Put it last.

    Args:
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.
        name: of the metric; None: `update_ratio`.

    State:
        a float32 scalar for each ratio.
    """

    requires: ClassVar[tuple[str, ...]] = ("param",)
    ignores_zeros: ClassVar[bool] = True

    def measure(self, view: View) -> jax.Array:
        return safe_divide(global_norm(view.updates), global_norm(view.params))


class update_cosine(Meter):
    r"""Measure the angle between update and gradient: $c = \langle u, g \rangle / (\lVert u \rVert_2 \lVert g \rVert_2)$.

    Behind the learning rate -1 is steepest descent, and 0 a step at right angles to it. 0 where one of them is zero.

    Args:
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.
        name: of the metric; None: `update_cosine`.

    State:
        a float32 scalar for each cosine.
    """

    ignores_zeros: ClassVar[bool] = True

    def measure(self, view: View) -> jax.Array:
        lengths = [global_norm(x) for x in (view.updates, view.gradients)]
        total = jnp.zeros((), scalar_dtype())
        for u, g in zip(view.updates, view.gradients, strict=True):
            unit = [
                x / jnp.where(n == 0, 1, n).astype(jnp.finfo(x.dtype).dtype)
                for x, n in zip((u, g), lengths, strict=True)
            ]
            total = total + jnp.sum(jnp.real(jnp.conj(unit[0]) * unit[1])).astype(total.dtype)
        return total


class effective_learning_rate(Meter):
    r"""Measure with which learning rate gradient descent would step as far: $\eta = \lVert u \rVert_2 / \lVert g \rVert_2$.

    Args:
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.
        name: of the metric; None: `effective_learning_rate`.

    State:
        a float32 scalar for each rate.
    """

    ignores_zeros: ClassVar[bool] = True

    def measure(self, view: View) -> jax.Array:
        return safe_divide(global_norm(view.updates), global_norm(view.gradients))


class nonfinite_count(Meter):
    r"""Count the elements of the update that are infinite or NaN here.

    Args:
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.
        name: of the metric; None: `nonfinite_count`.

    State:
        a float32 scalar for each count.
    """

    ignores_zeros: ClassVar[bool] = True

    def measure(self, view: View) -> jax.Array:
        total = jnp.zeros((), scalar_dtype())
        for u in view.updates:
            total = total + jnp.sum(~jnp.isfinite(u)).astype(total.dtype)
        return total


class second_moment_statistics(Meter):
    r"""Measure the smallest, mean and largest value of the second moment that was estimated before it.

    Args:
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.
        name: of the metric; None: `second_moment_statistics`.

    State:
        float32 scalars `min`, `mean` and `max`.

    Raises:
        ValueError: no second moment was estimated before it in its scope.
    """

    requires: ClassVar[tuple[str, ...]] = ("second",)
    keys: ClassVar[tuple[str, ...]] = ("min", "mean", "max")

    def measure(self, view: View) -> dict[str, jax.Array]:
        values = [v for second in view.second if (v := second.value()).size]
        if not values:
            return dict.fromkeys(self.keys, jnp.zeros((), scalar_dtype()))
        wide = scalar_dtype()
        least = jnp.stack([jnp.min(v).astype(wide) for v in values])
        most = jnp.stack([jnp.max(v).astype(wide) for v in values])
        total = jnp.stack([jnp.sum(v / size_of(values)).astype(wide) for v in values])
        return {"min": jnp.min(least), "mean": jnp.sum(total), "max": jnp.max(most)}


def fraction_clipped(stage: Any, per: Any = "tree", name: str = "fraction_clipped") -> Chain:
    r"""Run a stage that clips, and measure which share of the elements it changes.

    Args:
        stage: `clip(1.0)`, `clip_by_global_norm(1.0)` (then 0 or 1), `adaptive_grad_clip(0.01)`, ...; any transformation.
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.
        name: of the metric.

    Returns:
        `chain(mark(name), stage, probe(name, ...))`.
    """
    return chain(mark(name), stage, changed(name, per))


class changed(Probe):
    """Measure which share of the elements of the update differ from those at a `mark` of the same name.

    Args:
        name: of the mark, and of the metric.
        per: `"tree"`, `"leaf"`, or `{name: pattern}`; see `probe`.

    State:
        a float32 scalar for each share.
    """

    name: str = "changed"
    per: Any = "tree"

    def measure(self, view: View) -> jax.Array:
        if self.name not in view.marks:
            raise ValueError(f"changed({self.name!r}): there is no mark({self.name!r}) before it in its scope")
        total = jnp.zeros((), scalar_dtype())
        for u, before in zip(view.updates, view.marks[self.name], strict=True):
            total = total + jnp.sum(u != before).astype(total.dtype)
        return total / size_of(view.updates)


def metrics(state: Any) -> dict[str, jax.Array]:
    """What the probes measured in the last step.

    Args:
        state: the state of a chain with probes, or anything that has it inside: a wrapper's, Optax's, flax's.

    Returns:
        `{name: scalar}`, flat, for any logger: `"gradient_norm"`; `"gradient_norm/head"` for a group, or for a leaf by its
        path; `"second_moment_statistics/mean"` for one of several. Where a name repeats, `"gradient_norm[1]"` is the
        second. Empty if there are no probes.
    """
    found: list[tuple[str, jax.Array]] = []
    for path, value in jax.tree_util.tree_flatten_with_path(state)[0]:
        for i, step in enumerate(path):
            key = getattr(step, "key", None)
            if isinstance(key, str) and key.startswith(PREFIX):
                rest = [trees.path_name(path[i + 1 :])] if path[i + 1 :] else []
                found.append(("/".join([key.removeprefix(PREFIX).replace(".", "/"), *rest]), value))
                break
    times = Counter(name for name, _ in found)
    seen: Counter[str] = Counter()
    table = {}
    for name, value in found:
        table[name if times[name] == 1 else f"{name}[{seen[name]}]"] = value
        seen[name] += 1
    return table
