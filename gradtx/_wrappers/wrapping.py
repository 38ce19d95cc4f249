"""What the wrappers share: checks, one compiled call, and a step that is taken or not."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes, program, trees
from gradtx._core.chain import chain
from gradtx._core.functions import split_keywords
from gradtx._core.spec import fields_of, show_static
from gradtx._core.stages import is_foreign, rounds_parameters
from gradtx._core.transform import Transform, Wrapper


class Conditional(Wrapper):
    """A wrapper that decides at each step whether, or on what, the transformation inside runs.

    A subclass keeps its state in a NamedTuple, with the state of the transformation inside in the field `inner`, and
    overrides `init` and `advance`. `update` checks what came and makes one compiled call, so an eager update does not
    compile its conditional anew.

    Attributes:
        built_by: the name of the function that builds it, for printing.
        state_type: the type of its state.
    """

    built_by: ClassVar[str]
    state_type: ClassVar[Any]

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        gradients, leaves, treedef = trees.fitting(updates, params)
        if not isinstance(state, self.state_type):
            raise ValueError(
                f"{self.built_by}: expected the {self.state_type.__name__} that its init makes, got a "
                f"{type(state).__name__}"
            )
        updates = jax.tree.unflatten(treedef, gradients)
        params = None if leaves is None else jax.tree.unflatten(treedef, leaves)
        static, arrays = split_keywords(extra, self.built_by)
        return _advance(static, self, updates, state, params, arrays)

    def advance(self, updates: Any, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        """One step, traced."""
        raise NotImplementedError

    def _expression(self) -> str:
        inside = [repr(tx) for tx in self.transforms]
        rest = [f for f in fields_of(self) if f.name != "transforms"]
        own = [f"{f.name}={_show(f, getattr(self, f.name))}" for f in rest]
        return f"{self.built_by}({', '.join(inside + own)})"


def _show(field: Any, value: Any) -> str:
    kind = field.metadata.get("gradtx")
    return kind.show(value) if kind is not None else show_static(value)


@functools.partial(jax.jit, static_argnums=0)
def _advance(
    static: tuple[tuple[str, Any], ...], tx: Conditional, updates: Any, state: Any, params: Any, extra: dict[str, Any]
) -> tuple[Any, Any]:
    with jax.named_scope(tx.built_by):
        return tx.advance(updates, state, params, {**dict(static), **extra})


def inside(owner: str, tx: Any, *, rewritten: bool = False) -> Transform:
    """What a wrapper goes around: gradtx's as it is, Optax's as a chain of one.

    Args:
        owner: the wrapper's name.
        tx: the transformation.
        rewritten: whether the wrapper changes its updates, which then may not be made to land on rounded parameters.
    """
    if is_foreign(tx):
        return chain(tx)
    if not isinstance(tx, Transform):
        hint = "; call it first" if callable(tx) else ""
        raise TypeError(
            f"{owner}: expected a gradtx or Optax transformation, got {tx!r} of type {type(tx).__name__}{hint}"
        )
    if rewritten and rounds_parameters(tx):
        raise ValueError(
            f"{owner} changes the updates of what is inside, which here lead to rounded parameters: {tx!r}; put the "
            f"rounding behind it: chain({owner}(...), ...)"
        )
    return tx


def step_or_stay(
    go: jax.Array, tx: Any, gradients: Any, state: Any, params: Any, extra: dict[str, Any], *, like: Any
) -> tuple[Any, Any]:
    """One step of `tx` if `go`, else zero updates and the same state; only the one that is chosen runs.

    Args:
        go: bool scalar.
        tx: the transformation inside.
        gradients: its gradients.
        state: its state.
        params: the parameters, or None.
        extra: its keywords.
        like: the gradients as they came: with the parameters they say in which dtype an update leaves.
    """
    return jax.lax.cond(
        go, lambda: step(tx, gradients, state, params, extra, like=like), lambda: stay(tx, state, params, like=like)
    )


def step(tx: Any, gradients: Any, state: Any, params: Any, extra: dict[str, Any], *, like: Any) -> tuple[Any, Any]:
    """The branch of a conditional in which `tx` runs."""
    updates, new = tx.update(gradients, state, params, **extra)
    return as_updates(tx, updates, like, params), cast_like(new, state)


def stay(tx: Any, state: Any, params: Any, *, like: Any) -> tuple[Any, Any]:
    """The branch in which nothing happens."""
    return as_updates(tx, jax.tree.map(jnp.zeros_like, like), like, params), cast_like(state, state)


def as_updates(tx: Any, updates: Any, like: Any, params: Any) -> Any:
    """Updates in the dtypes in which those of `tx` leave: what parameter and gradient promote to."""
    if params is None:
        return cast_like(updates, like)
    rounds = rounds_parameters(tx)

    def one(u: jax.Array, g: Any, p: Any) -> jax.Array:
        return dtypes.cast(u, program.out_dtype(p.dtype, g.dtype, rounds=rounds))

    return jax.tree.map(one, updates, like, params)


def cast_like(tree: Any, like: Any) -> Any:
    """A tree in the dtypes of another; Optax's states may have Python's numbers in them."""
    return jax.tree.map(lambda x, old: dtypes.cast(jnp.asarray(x), old.dtype), tree, like)


def in_compute_dtype(gradients: Any, params: Any) -> Any:
    """Gradients in the dtype of the arithmetic: float32, or wider where the parameters are."""
    like = gradients if params is None else params
    return jax.tree.map(lambda g, p: dtypes.cast(g, dtypes.compute_dtype(np.dtype(p.dtype))), gradients, like)


def increment(count: jax.Array) -> jax.Array:
    """The count plus one, as far as an int32 goes."""
    largest = jnp.iinfo(count.dtype).max
    return jnp.where(count < largest, count + 1, largest)


def all_finite(tree: Any) -> jax.Array:
    """Whether no leaf has an infinity or a NaN in it; bool scalar."""
    return functools.reduce(jnp.logical_and, [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)], jnp.asarray(True))


def find_state(state: Any, kind: Any, built_by: str) -> Any:
    """The one state of a wrapper anywhere inside another state."""
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    found = [x for x in leaves if isinstance(x, kind)]
    if len(found) != 1:
        raise ValueError(f"expected the state of one {built_by}(...) in what was given, found {len(found)}")
    return found[0]
