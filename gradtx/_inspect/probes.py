"""Probes: stages that measure what flows through a chain, and keep the last value in the state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import trees
from gradtx._core.dtypes import scalar_dtype
from gradtx._core.moments import FirstMoment, SecondMoment
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.spec import StaticTree
from gradtx._core.stages import Leafwise, Leaves, Treewise
from gradtx._groups import matches

PREFIX = "probe_"  # of the slots that `metrics` finds


@dataclasses.dataclass(frozen=True)
class View:
    """What a probe sees: lists with one array a leaf, float32 or wider.

    Attributes:
        updates: what flows at the place where it stands.
        gradients: what the first estimator before it saw; without one the updates themselves.
        params: the parameters, if the probe requires them.
        first: the first moments, as far as there are any.
        second: the second moments, as far as there are any.
        marks: for each name of a `mark` before it the updates there.
    """

    updates: list[jax.Array]
    gradients: list[jax.Array]
    params: list[jax.Array]
    first: list[FirstMoment]
    second: list[SecondMoment]
    marks: dict[str, list[jax.Array]]

    @classmethod
    def of(cls, signals: list[Signal]) -> View:
        """Of some of the leaves."""
        return cls(
            updates=[s.update for s in signals],
            gradients=[s.update if s.gradient is None else s.gradient for s in signals],
            params=[s.param for s in signals if s.param is not None],
            first=[s.first for s in signals if s.first is not None],
            second=[s.second for s in signals if s.second is not None],
            marks={name: [s.marks[name] for s in signals] for name in (signals[0].marks if signals else ())},
        )


class Probe(Treewise):
    """A stage that changes nothing and keeps what it measures in the state.

    Subclasses have the fields `per` and `name`, and override `measure`.

    Attributes:
        keys: the names of what it measures, if that is more than one number.
    """

    writes: ClassVar[bool] = False
    reads: ClassVar[bool] = True
    keys: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        if self._per not in ("tree", "leaf") and not self._groups():
            raise ValueError(
                f"{where}(per=...): expected 'tree', 'leaf' or a dict {{name: path pattern}}, got {self._per!r}"
            )
        for label in (self.label, *self._groups()):
            if not isinstance(label, str) or not label or "." in label:
                raise ValueError(f"{where}: expected a name to be a non-empty string without a dot, got {label!r}")

    @property
    def label(self) -> str:
        """The name of the metric."""
        return getattr(self, "name", None) or type(self).__name__

    @property
    def _per(self) -> Any:
        return getattr(self, "per", "tree")

    def _groups(self) -> dict[str, Any]:
        tree = self._per.tree if isinstance(self._per, StaticTree) else self._per
        return dict(tree) if isinstance(tree, Mapping) else {}

    def _names(self, group: str = "") -> dict[str, str]:
        """For each thing it measures the name of its slot."""
        base = PREFIX + ".".join(filter(None, (self.label, group)))
        return {m: f"{base}.{m}" for m in self.keys} or {"": base}

    def slots(self) -> tuple[Slot, ...]:
        if self._per == "leaf":
            return tuple(Slot(n, role="factored", shape=_no_axes, dtype=scalar_dtype()) for n in self._names().values())
        groups = self._groups() or {"": None}
        return tuple(Slot(n, role="scalar") for group in groups for n in self._names(group).values())

    def measure(self, view: View) -> Any:
        """What it measures of some leaves: a scalar, or a dict of scalars by the names in `keys`."""
        raise NotImplementedError

    def update_leaves(self, s: SimpleNamespace, leaves: Leaves) -> Leaves:
        if self._per == "leaf":
            found = [self._measured([signal], self._names()) for signal in leaves.signals]
            return leaves.replace(slots=[{**old, **new} for old, new in zip(leaves.slots, found, strict=True)])
        memory = dict(leaves.memory)
        for group, pattern in (self._groups() or {"": None}).items():
            chosen = leaves.signals
            if pattern is not None:
                paths = trees.leaf_paths(jax.tree.unflatten(leaves.treedef, range(leaves.treedef.num_leaves)))
                pairs = zip(leaves.indices, leaves.signals, strict=True)
                chosen = [signal for i, signal in pairs if matches(pattern, paths[i], signal.update)]
            memory.update(self._measured(chosen, self._names(group)))
        return leaves.replace(memory=memory)

    def _measured(self, signals: list[Signal], names: dict[str, str]) -> dict[str, jax.Array]:
        result = self.measure(View.of(signals)) if signals else dict.fromkeys(names, 0.0)
        if not isinstance(result, Mapping):
            result = {"": result}
        if set(result) != set(names):
            expected = sorted(filter(None, names)) or "a scalar"
            raise ValueError(f"probe {self.label!r}: expected {expected}, got {sorted(result)}")
        scalars = {}
        for key, name in names.items():
            value = jnp.asarray(result[key])
            if value.ndim or jnp.iscomplexobj(value):
                raise ValueError(f"probe {self.label!r}: expected a real scalar, got {value.dtype}{list(value.shape)}")
            scalars[name] = value.astype(scalar_dtype())
        return scalars


def _no_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return ()


class probe(Probe):
    """Measure what flows at this place with a function of your own; the update passes through unchanged.

    Args:
        name: the name of the metric.
        fn: a function of a `View` (lists `updates`, `gradients`, `params`, `first`, `second`, one entry a leaf) to a real
            scalar, or to a dict of them with the keys in `outputs`. It is traced, and static: pass the same one each time.
        per: `"tree"`: once, of all leaves together. `"leaf"`: of each leaf. `{name: pattern}`: of the leaves of each
            group, by glob, regular expression or predicate as in `by_path`.
        outputs: the names of what it returns, if that is a dict.
        needs: `("param",)` if it reads the parameters, which `update` then needs; `("second",)` if a second moment must
            have been estimated before it.

    State:
        a float32 scalar for each thing that is measured: its value in the last step, 0 before the first. `metrics` reads it.

    Raises:
        ValueError: `per` is none of these, or from `update`, what the function returns is no real scalar.

    Example:
        >>> import gradtx, jax.numpy as jnp
        >>> def largest(view):
        ...     return jnp.max(jnp.stack([jnp.max(jnp.abs(u)) for u in view.updates]))
        >>> tx = gradtx.chain(gradtx.adam(0.5), gradtx.probe("largest_update", largest))
        >>> params = {"w": jnp.ones(3)}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> print(gradtx.metrics(state)["largest_update"])
        0.5
    """

    name: str
    fn: Any
    per: Any = "tree"
    outputs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("outputs", "needs"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        super().__post_init__()
        if not callable(self.fn):
            raise TypeError(f"probe(fn=...): expected a function of a view, got {self.fn!r}")

    @property
    def keys(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of what its function returns."""
        return self.outputs

    @property
    def requires(self) -> tuple[str, ...]:  # type: ignore[override]
        """What must be known when it runs."""
        return self.needs

    def measure(self, view: View) -> Any:
        return self.fn(view)


class mark(Leafwise):
    """Remember the update as it is here, under a name, for a probe behind it; it passes through unchanged.

    Args:
        name: the key in the view's `marks`.

    State:
        none.
    """

    name: str = "mark"

    writes: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: dict[str, jax.Array], signal: Signal) -> Signal:
        return signal.replace(marks={**signal.marks, self.name: signal.update})


def size_of(arrays: list[jax.Array]) -> float:
    """The number of elements; at least 1, to divide by."""
    return float(max(sum(int(np.prod(x.shape)) for x in arrays), 1))
