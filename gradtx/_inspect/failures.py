"""Where the first non-finite value of a step comes from: which stage, which leaf, and what went in."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import run, trees
from gradtx._core.dtypes import is_inexact, scalar_dtype
from gradtx._core.order import label
from gradtx._core.plan import Segment, one_by_one
from gradtx._core.scopes import enter_scope, exit_scope
from gradtx._core.signal import Signal
from gradtx._core.slots import scalar_like_parameters
from gradtx._core.stages import Opaque, Stage, Wrapped
from gradtx._wrappers.wrapping import Conditional, inside


@dataclasses.dataclass(frozen=True)
class NonfiniteReport:
    """The first non-finite value of a step.

    Attributes:
        step: the number of the step, from 1.
        stage: the stage that made it; `"gradients"` if it came in with them.
        leaf: the path of its leaf.
        index: its place in the leaf's array.
        what: `"update"`, or the name of the slot of state that it is in.
        value: it: inf, -inf or nan.
        came_in: the update that went into the stage there; of a slot what the slot was before; None for gradients.
        gradient: the gradient there.
        parameter: the parameter there; None if the caller gave none.
    """

    step: int
    stage: str
    leaf: str
    index: tuple[int, ...]
    what: str
    value: float
    came_in: float | None
    gradient: float | None
    parameter: float | None

    def __str__(self) -> str:
        place = f"{self.leaf}[{', '.join(map(str, self.index))}]" if self.index else self.leaf
        known = [
            f"{name} {value:g}"
            for name, value in (("gradient", self.gradient), ("parameter", self.parameter))
            if value is not None
        ]
        if self.stage == "gradients":
            return f"step {self.step}: the gradient of {place} is {self.value:g} ({', '.join(known[1:]) or 'it came in so'})"
        what = "" if self.what == "update" else f" in its slot {self.what!r}"
        return (
            f"step {self.step}: {self.stage} made {self.value:g}{what} at {place}"
            + (f" from {self.came_in:g}" if self.came_in is not None else "")
            + (f" ({', '.join(known)})" if known else "")
        )


class Event(NamedTuple):
    """Something that may be non-finite: where it is, without its values."""

    stage: str
    leaf: str
    what: str
    shape: tuple[int, ...]
    known: tuple[bool, ...]  # what came in, the gradient, the parameter


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Findings:
    """For each event whether it is non-finite, where first, and the values there."""

    flags: jax.Array
    positions: jax.Array
    values: jax.Array
    events: tuple[Event, ...] = dataclasses.field(metadata={"static": True})


@functools.partial(jax.jit, static_argnums=0)
def diagnosis(
    static: tuple[tuple[str, Any], ...], tx: Stage, updates: Any, state: Any, params: Any, extra: dict[str, Any]
) -> Findings:
    """One step, stage by stage: all that could be non-finite, in the order in which it arises."""
    extra = {**dict(static), **extra}
    plan = one_by_one(jax.tree.structure(tx))
    gradients, leaves, treedef = trees.fitting(updates, params)
    paths = trees.leaf_paths(updates)
    events: list[Event] = []
    rows: list[tuple[jax.Array, jax.Array, jax.Array]] = []

    def note(stage: str, what: str, leaf: int, x: Any, before: Any) -> None:
        if not hasattr(x, "dtype") or not is_inexact(x.dtype) or x.size == 0:
            return
        bad = ~jnp.isfinite(x).reshape(-1)
        at = jnp.argmax(bad)
        others = (before, gradients[leaf], None if leaves is None else leaves[leaf])
        known = tuple(y is not None and y.shape == x.shape for y in others)
        values = [
            _at(y, at) if yes else jnp.zeros((), scalar_dtype())
            for y, yes in zip((x, *others), (True, *known), strict=True)
        ]
        events.append(Event(stage, paths[leaf], what, x.shape, known))
        rows.append((jnp.any(bad), at.astype(jnp.int32), jnp.stack(values)))

    def watch(segment: Segment, before: list[Any], after: list[Any], kept: list[Any]) -> None:
        stages = [(i, plan.stages[i]) for i in segment.indices]
        stages = [(i, s) for i, s in stages if not isinstance(s, (enter_scope, exit_scope))]
        if not stages:
            return
        name = " and ".join(_called(s) for _, s in stages)
        for i, stage in stages:
            if isinstance(stage, Opaque) or not isinstance(kept[i], dict):
                continue
            for slot, tree in kept[i].items():
                if hasattr(tree, "dtype"):
                    continue
                new, old = treedef.flatten_up_to(tree), treedef.flatten_up_to(state.stages[i][slot])
                for leaf, (x, y) in enumerate(zip(new, old, strict=True)):
                    note(_called(stage), slot, leaf, x, y)
        for leaf, (x, y) in enumerate(zip(after, before, strict=True)):
            if x is not y:
                note(name, "update", leaf, _update(x), _update(y))

    for leaf, gradient in enumerate(gradients):
        note("gradients", "gradient", leaf, gradient, None)
    run.step(plan, tx, updates, state, params, extra, watch)
    if not rows:
        empty = jnp.zeros((0,))
        return Findings(empty > 0, empty.astype(jnp.int32), jnp.zeros((0, 4)), ())
    flags, positions, values = (jnp.stack(column) for column in zip(*rows, strict=True))
    return Findings(flags, positions, values, tuple(events))


def _called(stage: Stage) -> str:
    if isinstance(stage, Wrapped):
        return getattr(stage.transformation, "built_by", type(stage.transformation).__name__)
    return repr(stage) if isinstance(stage, Opaque) else label(stage)


def _split(extra: dict[str, Any]) -> tuple[tuple[tuple[str, Any], ...], dict[str, Any]]:
    """The keywords that are functions, and the arrays."""
    static = tuple((k, v) for k, v in sorted(extra.items()) if callable(v) or isinstance(v, str))
    return static, {k: v for k, v in extra.items() if not (callable(v) or isinstance(v, str))}


def _update(x: Any) -> Any:
    return x.update if isinstance(x, Signal) else x


def _at(x: jax.Array, position: jax.Array) -> jax.Array:
    value = x.reshape(-1)[position]
    return (jnp.abs(value) if jnp.iscomplexobj(value) else value).astype(scalar_dtype())


def _report(step: Any, findings: Findings) -> NonfiniteReport | None:
    flags = np.asarray(findings.flags)
    if not flags.any():
        return None
    first = int(np.argmax(flags))
    event, values = findings.events[first], [float(x) for x in np.asarray(findings.values)[first]]
    index = tuple(int(i) for i in np.unravel_index(int(findings.positions[first]), event.shape))
    came_in, gradient, parameter = (x if yes else None for x, yes in zip(values[1:], event.known, strict=True))
    return NonfiniteReport(
        int(step), event.stage, event.leaf, index, event.what, values[0], came_in, gradient, parameter
    )


def find_nonfinite(tx: Any, grads: Any, state: Any, params: Any = None, **extra: Any) -> NonfiniteReport | None:
    """Repeat a step stage by stage, and say where its first non-finite value comes from.

    For afterwards: a step that failed, from what went into it (of a chain the state *before* the step).

    Args:
        tx: a gradtx chain; what is around one (`accumulate_gradients`) is left out: give `tx.tx` and `state.inner`.
        grads: the gradients.
        state: the state before the step.
        params: the parameters.
        **extra: the keywords of `update`.

    Returns:
        A report that prints itself, or None if everything is finite.

    Raises:
        TypeError: `tx` is no chain.

    Example:
        >>> import gradtx, jax.numpy as jnp
        >>> tx = gradtx.chain(gradtx.scale(1e30), gradtx.scale(1e30))
        >>> grads = {"w": jnp.array([0.0, 2.0])}
        >>> print(gradtx.find_nonfinite(tx, grads, tx.init(grads)))
        step 1: scale made inf at w[1] from 2e+30 (gradient 2)
    """
    if not isinstance(tx, Stage):
        hint = "; of a wrapper give what is inside, tx.tx and state.inner" if hasattr(tx, "tx") else ""
        raise TypeError(f"find_nonfinite: expected a gradtx chain, got {tx!r}{hint}")
    static, arrays = _split(extra)
    return _report(state.count + 1, diagnosis(static, tx, grads, state, params, arrays))


class ReportState(NamedTuple):
    """The state of `report_nonfinite`.

    Attributes:
        failed_at: int32 scalar, the step with the first non-finite value; 0 as long as there was none.
        inner: the state of the transformation inside.
    """

    failed_at: jax.Array
    inner: Any


class ReportNonfinite(Conditional):
    """A chain that reports its first non-finite value. Build it with `report_nonfinite`."""

    on_report: Any = None

    built_by: ClassVar[str] = "report_nonfinite"
    state_type: ClassVar[Any] = ReportState
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.tx, Stage):
            raise TypeError(
                f"report_nonfinite: expected a chain, whose stages it can look between, got {self.tx!r}; put it inside: "
                f"{getattr(self.tx, 'built_by', 'the wrapper')}(report_nonfinite(...))"
            )
        if self.on_report is not None and not callable(self.on_report):
            raise TypeError(f"report_nonfinite(on_report=...): expected a function of a report, got {self.on_report!r}")

    def init(self, params: Any) -> ReportState:
        failed_at = scalar_like_parameters(jax.tree.leaves(params), (), np.dtype(np.int32))
        return ReportState(failed_at, self.tx.init(params))

    def advance(self, updates: Any, state: ReportState, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        new, inner = self.tx.update(updates, state.inner, params, **extra)
        arrays = [x for x in jax.tree.leaves((new, inner)) if is_inexact(x.dtype)]
        finite = functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(x)) for x in arrays], jnp.asarray(True))
        fails = jnp.logical_and(~finite, state.failed_at == 0)
        step = inner.count

        def tell() -> None:
            static, arrays = _split(extra)
            findings = diagnosis(static, self.tx, updates, state.inner, params, arrays)
            jax.debug.callback(functools.partial(_tell, self.on_report), step, findings)

        jax.lax.cond(fails, tell, lambda: None)
        return new, ReportState(jnp.where(fails, step, state.failed_at), inner)


def _tell(on_report: Callable[[NonfiniteReport], None] | None, step: Any, findings: Findings) -> None:
    report = _report(step, findings)
    if report is None:
        return  # under vmap both branches run
    if on_report is None:
        print(f"gradtx: {report}", file=sys.stderr)
    else:
        on_report(report)


def report_nonfinite(tx: Any, on_report: Callable[[NonfiniteReport], None] | None = None) -> ReportNonfinite:
    """Say which stage made the first non-finite value, at which leaf, in which step, and from what.

    Works inside `jit`. A step whose updates and state are finite costs one look at them; in the first one that fails, the step
    is repeated stage by stage, and the host is told. The updates are those of `tx`: what failed fails. Without this wrapper
    a chain has none of it.

    Args:
        tx: a chain, gradtx's or Optax's. Wrappers go around this one: `skip_nonfinite(report_nonfinite(tx))`, say.
        on_report: a function of a `NonfiniteReport`, called on the host, once; None prints to the standard error. It is
            static: pass the same one each time.

    Returns:
        A transformation whose state is a `ReportState`: `failed_at`, the step, or 0.

    Raises:
        TypeError: `tx` is no chain.
    """
    return ReportNonfinite((inside("report_nonfinite", tx),), on_report)
