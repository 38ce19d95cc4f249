"""Adding an update to the parameters, and a whole step in one compiled call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes, trees
from gradtx._core.functions import split_keywords
from gradtx._core.transform import Transform
from gradtx._sharding import in_host_memory


def apply_updates(params: Any, updates: Any) -> Any:
    """Add updates to parameters, after checking that they fit.

    Args:
        params: a tree of arrays; None is "no parameter here".
        updates: a tree of the same structure and shapes, from `update(grads, state, params)`.

    Returns:
        The sums, computed in at least float32 and rounded to nearest, in the parameters' dtypes.

    Raises:
        ValueError: a leaf is missing, or of another shape.
        TypeError: a parameter or update is not floating or complex (an integer sum would be truncated), an update is
            complex and its parameter real, or an update is narrower than its parameter: it has lost digits, or the
            two arguments are swapped.
    """
    leaves, treedef = trees.flatten(params, "the parameter")
    deltas = trees.flatten_like(treedef, params, updates, "the updates", "the parameters")
    for i, (param, delta) in enumerate(zip(leaves, deltas, strict=True)):
        _check(param, delta, params, i)
    return jax.tree.unflatten(treedef, _add(leaves, deltas))


@jax.jit
def _add(params: list[Any], updates: list[Any]) -> list[Any]:
    def one(param: Any, update: Any) -> Any:
        wide = dtypes.compute_dtype(dtypes.promote(param.dtype, update.dtype))
        return dtypes.cast(jax.lax.add(dtypes.cast(param, wide), dtypes.cast(update, wide)), param.dtype)

    return [one(*pair) for pair in zip(params, updates, strict=True)]


def _check(param: Any, update: Any, tree: Any, index: int) -> None:
    def where() -> str:
        return f"leaf {trees.leaf_paths(tree)[index]}"

    if not dtypes.is_inexact(update.dtype):
        raise TypeError(f"{where()}: expected a floating or complex update, got {update.dtype}")
    if not dtypes.is_inexact(param.dtype):
        raise TypeError(
            f"{where()}: expected a floating or complex parameter, got {param.dtype}, in which an update of dtype "
            f"{update.dtype} would be truncated"
        )
    if update.shape != param.shape:
        raise ValueError(f"{where()}: expected an update of the parameter's shape {param.shape}, got {update.shape}")
    is_complex = [jnp.issubdtype(x.dtype, jnp.complexfloating) for x in (param, update)]
    if is_complex == [False, True]:
        raise TypeError(f"{where()}: expected a real update for a {param.dtype} parameter, got {update.dtype}")
    if is_complex == [False, False] and dtypes.promote(np.dtype(param.dtype), np.dtype(update.dtype)) != update.dtype:
        raise TypeError(
            f"{where()}: expected an update at least as wide as its {param.dtype} parameter, got {update.dtype}; "
            "apply_updates takes (params, updates) in this order, and update(...) needs the params"
        )


def step(tx: Transform, params: Any, state: Any, grads: Any, *, donate: bool = True, **extra: Any) -> tuple[Any, Any]:
    """One optimizer step in one compiled call; `tx` is data, so another learning rate does not compile again.

    Args:
        tx: a gradtx transformation.
        params: a tree of floating or complex arrays.
        state: from `tx.init(params)` or the last step.
        grads: the gradients, a tree like the parameters.
        donate: whether `params` and `state` are used up (their memory holds the results). Pass False to keep them. An
            array that occurs in them twice, or in `grads` too, is copied first.
        **extra: keywords for stages that ask for them. Functions and strings among them are static: pass the same function
            each time. One that is made anew in a loop compiles anew each time; a warning says so.

    Returns:
        `(params, state)` after the step.

    Raises:
        TypeError: `tx` is not a gradtx transformation (wrap Optax's: `gradtx.chain(tx)`), or a function among the keywords
            has no hash, or one is neither a function, a string, nor a tree of arrays and numbers.
        ValueError: parameters, state and gradients lie on different devices, or one was used up before; nothing is used up now.
    """
    if not isinstance(tx, Transform):
        raise TypeError(f"step: expected a gradtx transformation, got {tx!r}; wrap Optax's: gradtx.chain(tx)")
    tx = tx._placed_at(params)
    static, arrays = split_keywords(extra, "step")
    compiled = _keeping_step
    if donate:
        params, state = _unshared((params, state), kept=(grads, arrays))
        compiled = _donating_step
    try:
        return compiled(static, tx, params, state, grads, arrays)
    except (ValueError, RuntimeError) as error:
        if "incompatible devices" in str(error) or "Mesh for all inputs should be equal" in str(error):
            raise ValueError(_elsewhere(params, state, grads)) from error
        if "memory_space" in str(error) and (path := _on_host(state)) is not None:
            raise ValueError(
                f"step: leaf {path} of the state lies in the memory of the host, where offload_state(tx) keeps it. Nothing was "
                "changed. To move a state to the parameters: jax.device_put(state, gradtx.state_shardings(tx, params))"
            ) from error
        gone = _used_up({"params": params, "state": state, "grads": grads})
        if gone is None:
            raise
        raise ValueError(
            f"step: {gone} was used up by an earlier call, whose results lie in its memory: go on with the parameters and the "
            "state that it returned, or pass donate=False to keep those that go in"
        ) from error


def _used_up(tree: Any) -> str | None:
    """The path of the first array that no longer has memory of its own."""
    return _first(tree, lambda x: isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) and x.is_deleted())


def _on_host(tree: Any) -> str | None:
    """The path of the first array in the memory of the host."""
    return _first(tree, lambda x: in_host_memory(getattr(x, "sharding", None)))


def _first(tree: Any, is_one: Callable[[Any], bool]) -> str | None:
    found = map(is_one, jax.tree.leaves(tree))
    return next((path for path, yes in zip(trees.leaf_paths(tree), found, strict=True) if yes), None)


def _elsewhere(params: Any, state: Any, grads: Any) -> str:
    """What lies where, for arrays that one program cannot take together."""
    told = []
    for name, tree in (("the parameters", params), ("the state", state), ("the gradients", grads)):
        places = {x.sharding: None for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)}
        told.append(f"{name} on {', '.join(dict.fromkeys(str(getattr(s, 'mesh', s)) for s in places)) or 'nothing'}")
    return (
        f"step: expected arrays on one mesh, got {'; '.join(told)}. Nothing was changed. To move a state to the parameters: "
        "jax.device_put(state, gradtx.state_shardings(tx, params))"
    )


def _unshared(donated: Any, kept: Any) -> Any:
    """The trees with every array its own: a buffer that occurs twice (tied weights, some of Optax's states) is copied."""
    seen = {id(x) for x in jax.tree.leaves(kept)}
    leaves, treedef = jax.tree.flatten(donated)
    for i, leaf in enumerate(leaves):
        if id(leaf) in seen and isinstance(leaf, jax.Array):
            leaves[i] = leaf = jnp.copy(leaf)
        seen.add(id(leaf))
    return jax.tree.unflatten(treedef, leaves)


def gradtx_step(  # the name by which profiles and rehearsals know this part of a program
    static: tuple[tuple[str, Any], ...], tx: Transform, params: Any, state: Any, grads: Any, extra: dict[str, Any]
) -> tuple[Any, Any]:
    return tx._step(apply_updates, params, state, grads, {**dict(static), **extra})


_keeping_step = functools.partial(jax.jit, static_argnums=0)(gradtx_step)
_donating_step = functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))(gradtx_step)
