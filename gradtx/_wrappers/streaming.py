"""A traced step that brings its state from host memory piece by piece, each when the last but one is back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from gradtx._sharding import in_memory

HOST, DEVICE = jax.memory.Space.Host, jax.memory.Space.Device
IN_FLIGHT = 2  # pieces on the device: one at work or on its way back, one arriving, so that the link works both ways
PROGRAMS = ("leaf_program", "tree_program")  # the jitted functions in which the arithmetic of a step happens


class Operation(NamedTuple):
    """An equation of a traced step, over values that have numbers.

    Attributes:
        equation: of a jaxpr.
        inputs: the numbers of what it reads.
        outputs: the numbers of what it makes.
    """

    equation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def streamed(step: Callable[[Any], tuple[Any, Any]], state: Any, home: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What `step(state)` computes, with little of the state on the device at a time.

    The step is traced, and its operations run in another order: one that reads arrays in host memory has them brought, then
    comes all that needs no others, and new arrays of the state go home at once. That is a piece: a leaf program with the
    slots of one parameter, or a treewise stage with all of its own. A piece is brought when the last but one is home. An
    `optimization_barrier` says so to the compiler, which else brings everything at the start and returns it at the end.

    Args:
        step: from the state, all of it on the device, to `(result, state)`; it may close over tracers.
        state: a tree of tracers.
        home: the memory that an array of the new state belongs in.
    """
    old, treedef = jax.tree.flatten(state)
    arrived = [jax.typeof(x).update(memory_space=DEVICE) for x in old]
    traced, shapes = jax.make_jaxpr(step, return_shape=True)(jax.tree.unflatten(treedef, arrived))
    values = dict(enumerate(old))
    operations, results = _operations(traced, list(values), values)
    ours = len(jax.tree.leaves(shapes[0]))  # where the new state begins among the results
    slots: dict[int, list[int]] = {}
    for place, n in enumerate(results[ours:], ours):
        slots.setdefault(n, []).append(place)

    away = {n for n, x in enumerate(old) if jax.typeof(x).memory_space == HOST}
    brought: set[int] = set()
    returned: dict[int, Any] = {}
    sent: list[list[int]] = [[]]  # of the results, those that each piece has sent home
    current = 0
    for piece, operation in _in_pieces(operations, away):
        if piece != current and sent[-1]:
            sent.append([])
        current = piece
        wanted = away.intersection(operation.inputs) - brought
        if wanted:
            brought |= wanted
            _bring(sorted(wanted), values, sent[-1 - IN_FLIGHT] if len(sent) > IN_FLIGHT else [], returned)
        _run(operation, values)
        for n in operation.outputs:
            if n in slots and home(values[n]) == HOST:
                with jax.named_scope("return_state"):
                    returned.update({place: in_memory(values[n], HOST) for place in slots[n]})
                sent[-1] += slots[n]
    new = [in_memory(values[n], DEVICE) for n in results[:ours]]
    for place, n in enumerate(results[ours:], ours):
        x = old[n] if n in away else values[n]  # a slot that stays as it is need not come back
        new.append(returned[place] if place in returned else in_memory(x, home(x)))
    return jax.tree.unflatten(jax.tree.structure(shapes), new)


def _bring(wanted: list[int], values: dict[int, Any], before: list[int], returned: dict[int, Any]) -> None:
    """Bring values to the device, once the results `before` are in host memory."""
    arrays = [values[n] for n in wanted]
    with jax.named_scope("bring_state"):
        if before:
            arrays, back = _together((arrays, [returned[place] for place in before]))
            returned.update(zip(before, back, strict=True))
        values.update({n: in_memory(x, DEVICE) for n, x in zip(wanted, arrays, strict=True)})


@jax.custom_jvp
def _together(arrays: Any) -> Any:
    """The same arrays, no use of any before all are there. (Of the barrier itself, derivatives lie on the device.)"""
    return jax.lax.optimization_barrier(arrays)


_together.defjvp(lambda primals, tangents: (_together(*primals), *tangents), symbolic_zeros=True)


def _in_pieces(operations: list[Operation], away: set[int]) -> list[tuple[int, Operation]]:
    """The operations in the order in which they run, each with the number of its piece: 0 needs nothing brought.

    A piece begins with an operation that reads what is away. How many such it builds on is its level; a piece needs none of
    its own level. So all that a piece needs comes before it, and all that needs nothing after it belongs to it.
    """
    levels: dict[int, int] = {}
    starts = []
    for i, operation in enumerate(operations):
        level = max((levels.get(n, 0) for n in operation.inputs), default=0)
        if not away.isdisjoint(operation.inputs):
            level += 1
            starts.append((level, i))
        levels.update(dict.fromkeys(operation.outputs, level))
    own = {i: piece for piece, (_, i) in enumerate(sorted(starts), 1)}
    pieces: dict[int, int] = {}
    order = []
    for i, operation in enumerate(operations):
        piece = max([own.get(i, 0), *(pieces.get(n, 0) for n in operation.inputs)])
        pieces.update(dict.fromkeys(operation.outputs, piece))
        order.append((piece, i))
    return [(piece, operations[i]) for piece, i in sorted(order)]


# ---- operations ----


def _operations(jaxpr: Any, inputs: list[int], values: dict[int, Any]) -> tuple[list[Operation], list[int]]:
    """The equations of a closed jaxpr, and in place of a call that holds leaf programs those of what it calls.

    Args:
        jaxpr: the jaxpr.
        inputs: the numbers of its arguments.
        values: by number, None for what is not known yet; more are added.

    Returns:
        The operations, and the numbers of the results.
    """

    def add(value: Any) -> int:
        values[len(values)] = value
        return len(values) - 1

    def read(variable: Any) -> int:
        return add(variable.val) if isinstance(variable, Literal) else names[variable]

    names = dict(zip(jaxpr.jaxpr.invars, inputs, strict=True))
    names.update(zip(jaxpr.jaxpr.constvars, map(add, jaxpr.consts), strict=True))
    operations = []
    for equation in jaxpr.jaxpr.eqns:
        given = [read(v) for v in equation.invars]
        if _holds_programs(equation):
            called, made = _operations(equation.params["jaxpr"], given, values)
            operations += called
        else:
            made = [add(None) for _ in equation.outvars]
            operations.append(Operation(equation, tuple(given), tuple(made)))
        names.update(zip(equation.outvars, made, strict=True))
    return operations, [read(v) for v in jaxpr.jaxpr.outvars]


def _holds_programs(equation: Any) -> bool:
    """Whether it is a call of a jitted function that calls leaf programs in turn: a wrapper's `update`."""
    if equation.primitive.name != "jit" or equation.params["name"] in PROGRAMS:
        return False
    calls = [e for e in equation.params["jaxpr"].jaxpr.eqns if e.primitive.name == "jit"]
    return any(e.params["name"] in PROGRAMS or _holds_programs(e) for e in calls)


def _run(operation: Operation, values: dict[int, Any]) -> None:
    """Run it as `jax.core.eval_jaxpr` would."""
    equation = operation.equation
    inputs = [values[n] for n in operation.inputs]
    scope = str(equation.source_info.name_stack)
    with jax.named_scope(scope) if scope else contextlib.nullcontext(), equation.ctx.manager:
        made = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(equation.params))
    values.update(zip(operation.outputs, made if equation.primitive.multiple_results else [made], strict=True))
