"""Trees to test on."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradtx


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Block:
    matrix: Any
    bias: Any


def params(dtype: Any = jnp.float32, seed: int = 0) -> dict[str, Any]:
    """A small tree with nested containers, a scalar, an empty array and a None."""
    rng = np.random.default_rng(seed)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), dtype)

    return {
        "block": Block(matrix=array(3, 4), bias=array(4)),
        "pair": (array(4), None),
        "nested": {"scalar": array(), "empty": array(0, 3)},
    }


def few(dtype: Any = jnp.float32) -> dict[str, Any]:
    """A matrix, a vector and a scalar of it, where a test compiles a lot and the others would add nothing."""
    tree = params(dtype)
    del tree["pair"], tree["nested"]["empty"]
    return tree


def grads_like(tree: Any, seed: int = 1, scale: float = 1.0, dtype: Any = None) -> Any:
    """Random gradients for a tree of parameters."""
    rng = np.random.default_rng(seed)

    def one(p: Any) -> jax.Array:
        g = rng.normal(size=p.shape)
        if jnp.issubdtype(p.dtype, jnp.complexfloating):
            g = g + 1j * rng.normal(size=p.shape)
        return jnp.asarray(g * scale, dtype or p.dtype)

    return jax.tree.map(one, tree)


def avals(tree: Any) -> Any:
    """Shape, dtype and weak type of every leaf."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, bool(x.aval.weak_type)), tree)


def run(tx: Any, tree: Any, steps: int = 5, dtype: Any = None, *, walks: bool = False) -> tuple[Any, Any]:
    """The last update and state after some steps, the parameters left alone or, if they walk, moved down each gradient."""
    state = tx.init(tree)
    update = jax.jit(tx.update)
    updates = tree
    for i in range(steps):
        grads = grads_like(tree, seed=i, dtype=dtype)
        here = jax.tree.map(lambda p, g, i=i: p - 0.1 * i * g, tree, grads) if walks else tree
        updates, state = update(grads, state, here)
    return updates, state


def run_same(tx: Any, tree: Any, grads: Any, steps: int) -> tuple[Any, Any]:
    """The last update and state after some steps with the same gradients."""
    state, updates = tx.init(tree), grads
    update = jax.jit(tx.update)
    for _ in range(steps):
        updates, state = update(grads, state, tree)
    return updates, state


def counts(state: Any) -> list[jax.Array]:
    """The step counts of all chains in a state, from the outside in."""
    return [chain.count for chain in chains(state)]


def slots(state: Any) -> list[tuple[str, Any]]:
    """The slots of all chains in a state, by name."""
    return [(name, s) for chain in chains(state) for e in chain.stages if isinstance(e, dict) for name, s in e.items()]


def chains(state: Any) -> list[gradtx.State]:
    """The states of all chains in a state, wrappers' too, from the outside in."""
    found = [x for x in jax.tree.leaves(state, is_leaf=_is_chain) if _is_chain(x)]
    return [x for chain in found for x in (chain, *chains(chain.stages))]


def _is_chain(x: Any) -> bool:
    return isinstance(x, gradtx.State)
