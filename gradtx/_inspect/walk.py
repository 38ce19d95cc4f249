"""A transformation and its state, part by part: which state belongs to which stage, at any depth."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import optax

from gradtx._core.plan import plan_for
from gradtx._core.slots import State
from gradtx._core.stages import Opaque, Stage, Wrapped
from gradtx._core.transform import Transform

Way = tuple[tuple[str, int | None], ...]


class Part(NamedTuple):
    """A chain or a wrapper inside a transformation, with its state.

    Attributes:
        way: the way down to it from the root, as in `addresses.Place`.
        tx: the transformation.
        state: its state.
    """

    way: Way
    tx: Transform
    state: Any


class Position(NamedTuple):
    """A stage in the order in which a chain's state keeps them.

    Attributes:
        way: the way down to it from its chain; None for the ends of a scope, which only mark a place.
        stage: the stage.
        group: the pattern of the group it stands in, if it does.
    """

    way: Way | None
    stage: Stage | None
    group: Any = None


def positions(tx: Any, way: Way = (), group: Any = None) -> list[Position]:
    """The stages of a chain, one for each entry of its state."""
    if tx.composite is None:
        return [Position(way, tx, group)]
    if tx.composite == "groups":
        pairs = enumerate(zip(tx.patterns, tx.stages, strict=True))
        return [p for i, (key, part) in pairs for p in _scope(positions(part, (*way, ("stages", i)), key))]
    inside = [p for i, part in enumerate(tx.stages) for p in positions(part, (*way, ("stages", i)), group)]
    return _scope(inside) if tx.composite == "scope" else inside


def _scope(inside: list[Position]) -> list[Position]:
    return [Position(None, None), *inside, Position(None, None)]


def parts(tx: Any, state: Any, way: Way = ()) -> Iterator[Part]:
    """The transformation itself, and every chain and wrapper inside it, from the outside in."""
    yield Part(way, tx, state)
    if getattr(tx, "transparent", False):
        yield from parts(tx.tx, state, (*way, ("transforms", 0)))
        return
    if not isinstance(tx, Stage):
        for i, (inside, field) in enumerate(zip(tx.transforms, tx.held, strict=True)):
            yield from parts(inside, getattr(state, field), (*way, ("transforms", i)))
        return
    for position, entry in zip(positions(tx), state.stages, strict=True):
        if isinstance(position.stage, Wrapped):
            assert position.way is not None
            yield from parts(position.stage.transformation, entry, (*way, *position.way, ("transforms", 0)))


def fits(tx: Any, state: Any) -> bool:
    """Whether this is a state that `tx` could have made."""
    if isinstance(tx, Stage):
        if not isinstance(state, State):
            return False
        plan = plan_for(jax.tree.structure(tx))
        if len(state.stages) != len(plan.stages):
            return False
        for position, stage, entry, stored in zip(positions(tx), plan.stages, state.stages, plan.stored, strict=True):
            if isinstance(stage, Wrapped):
                assert position.stage is not None
                if not fits(position.stage.transformation, entry):
                    return False
                continue
            names = {slot.name for slot in stored}
            if not isinstance(stage, Opaque) and (set(entry) if isinstance(entry, dict) else set()) != names:
                return False
        return True
    if getattr(tx, "transparent", False):
        return fits(tx.tx, state)
    if not all(hasattr(state, field) for field in tx.held) or not tx.held:
        return False
    kind = getattr(tx, "state_type", None)
    if kind is not None and not isinstance(state, kind):
        return False
    return all(fits(inside, getattr(state, field)) for inside, field in zip(tx.transforms, tx.held, strict=True))


def find(tx: Transform, state: Any, caller: str) -> Any:
    """The state of `tx`: what is given, or the one that lies anywhere inside it.

    Raises:
        ValueError: there is none in it, or several fit.
    """
    if fits(tx, state):
        return state
    found = states_in(tx, state)
    if len(found) != 1:
        raise ValueError(
            f"{caller}: expected a state with one of {tx!r} in it, found {len(found)}"
            + ("; give the one you mean" if found else "; is it the state of another transformation?")
        )
    return found[0]


def states_in(tx: Transform, state: Any) -> list[Any]:
    """Every state of `tx` inside another."""
    leaves = jax.tree.leaves(state, is_leaf=lambda x: fits(tx, x))
    return [x for x in leaves if fits(tx, x)]


def ours_inside(tx: Any, caller: str) -> list[Transform]:
    """The gradtx transformations that somebody else's goes around (`optax.chain(...)`, `optax.MultiSteps(...)`).

    Optax's transformations are closures; the bound methods in them lead back to ours.

    Raises:
        TypeError: `tx` is no transformation.
    """
    if isinstance(tx, Transform):
        return [tx]
    if not isinstance(tx, (optax.GradientTransformation, optax.MultiSteps)):
        hint = "; call it first" if callable(tx) else ""
        raise TypeError(f"{caller}: expected a transformation, got {tx!r} of type {type(tx).__name__}{hint}")
    found: list[Transform] = []
    seen: set[int] = set()

    def visit(x: Any) -> None:
        if id(x) in seen:
            return
        seen.add(id(x))
        if isinstance(x, Transform):
            if all(x is not other for other in found):
                found.append(x)
            return
        for inside in _contents(x):
            visit(inside)

    visit(tx)
    return found


def _contents(x: Any) -> list[Any]:
    if isinstance(x, (tuple, list)):
        return list(x)
    if isinstance(x, dict):
        return list(x.values())
    if isinstance(x, functools.partial):
        return [x.func, *x.args, *x.keywords.values()]
    if isinstance(x, types.MethodType):
        return [x.__self__]
    if isinstance(x, optax.MultiSteps):
        return list(vars(x).values())
    if isinstance(x, types.FunctionType):
        return [cell.cell_contents for cell in x.__closure__ or () if _is_filled(cell)]
    wrapped = getattr(x, "__wrapped__", None)  # a jitted or decorated function
    return [wrapped] if isinstance(wrapped, Callable) else []  # type: ignore[arg-type]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
