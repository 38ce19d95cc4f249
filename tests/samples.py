"""Trees to test on."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import compiler

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


def _cheap_options() -> dict[str, Any]:
    """XLA:CPU compiles in a third of the time without its fusion emitters and LLVM's passes; newer ones always have the
    former."""
    unoptimized = {"xla_backend_optimization_level": 0}
    options = {**unoptimized, "xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:  # no such option
        return unoptimized
    return options


# For what asks which values come out and in which form; what asks for the last places compiles as users do.
CHEAP_OPTIONS = _cheap_options()
cheap_jit = functools.partial(jax.jit, compiler_options=CHEAP_OPTIONS)
_usual_options = compiler.get_compile_options


def _quick_options(*args: Any, env_options_overrides: Any = None, **keywords: Any) -> Any:
    return _usual_options(*args, env_options_overrides={**CHEAP_OPTIONS, **(env_options_overrides or {})}, **keywords)


def compile_quickly(on: bool) -> None:
    """All programs compile with the cheap options from now on, those that gradtx jits itself too, or as usual again."""
    jax.config.update("jax_disable_most_optimizations", on)
    # No public option of JAX turns fusion emitters off for a while. Where XLA has no other way there is none to turn off.
    if len(CHEAP_OPTIONS) > 1:
        compiler.get_compile_options = _quick_options if on else _usual_options


@cheap_jit
def update(tx: Any, grads: Any, state: Any, params: Any) -> Any:
    """One update with the transformation as data: all tests of one session share its programs."""
    return tx.update(grads, state, params)


def avals(tree: Any) -> Any:
    """Shape, dtype and weak type of every leaf, which may be abstract."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, bool(getattr(x, "aval", x).weak_type)), tree)


def run(tx: Any, tree: Any, steps: int = 5, dtype: Any = None, *, walks: bool = False) -> tuple[Any, Any]:
    """The last update and state after some steps, the parameters left alone or, if they walk, moved down each gradient."""
    state = tx.init(tree)
    updates = tree
    for i in range(steps):
        grads = grads_like(tree, seed=i, dtype=dtype)
        here = jax.tree.map(lambda p, g, i=i: p - 0.1 * i * g, tree, grads) if walks else tree
        updates, state = update(tx, grads, state, here)
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
