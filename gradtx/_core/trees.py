"""Trees as a caller passes them: paths for messages, and the checks that name a leaf when something does not fit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.slots import Slot

TreeDef = Any


def path_name(path: tuple[Any, ...]) -> str:
    """A leaf's path as people write it: `encoder/0/bias`; the tree itself is `<root>`."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "<root>"


def leaf_paths(tree: Any) -> list[str]:
    """The path of every leaf, in order."""
    return [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def flatten(tree: Any, what: str) -> tuple[list[Any], TreeDef]:
    """Leaves as arrays (or things with a shape and a dtype) and the structure."""
    leaves, treedef = jax.tree.flatten(tree)
    for i, leaf in enumerate(leaves):
        if not hasattr(leaf, "dtype") or isinstance(leaf, (np.ndarray, np.generic)):
            leaves[i] = _as_array(leaf, what, tree, i)
    return leaves, treedef


def _as_array(leaf: Any, what: str, tree: Any, index: int) -> jax.Array:
    if getattr(leaf, "dtype", None) == jax.dtypes.float0:
        return leaf  # check_gradient answers it
    if isinstance(leaf, (bool, int, float, complex, np.ndarray, np.generic)):
        return jnp.asarray(leaf)  # canonical: float64 only where x64 is enabled
    raise TypeError(
        f"leaf {leaf_paths(tree)[index]}: expected {what} to be an array, got {leaf!r} of type {type(leaf).__name__}"
    )


def flatten_like(treedef: TreeDef, reference: Any, tree: Any, what: str, reference_what: str) -> list[Any]:
    """The leaves of `tree`, which must have the structure `treedef` of `reference`."""
    leaves, other = flatten(tree, what)
    if other != treedef:
        raise ValueError(_structure_message(reference, tree, what, reference_what))
    return leaves


def _structure_message(reference: Any, tree: Any, what: str, reference_what: str) -> str:
    def by_path(t: Any) -> dict[str, Any]:
        flat = jax.tree_util.tree_flatten_with_path(t, is_leaf=lambda x: x is None)[0]
        return {path_name(p): leaf for p, leaf in flat}

    expected, got = by_path(reference), by_path(tree)
    for path, leaf in expected.items():
        if leaf is not None and path in got and got[path] is None:
            return f"leaf {path}: expected {what} for it, got None; {reference_what} has {_describe(leaf)} there"
        if leaf is None and got.get(path) is not None:
            return f"leaf {path}: {reference_what} has None there, but {what} has {_describe(got[path])}"
    missing = [p for p in expected if p not in got and expected[p] is not None]
    extra = [p for p in got if p not in expected and got[p] is not None]
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"leaf {missing[0]} is in {reference_what} and not in {what}" + _more(missing))
        if extra:
            parts.append(f"leaf {extra[0]} is in {what} and not in {reference_what}" + _more(extra))
        return f"{what} and {reference_what} are different trees: " + "; ".join(parts)
    return (
        f"{what} and {reference_what} have the same leaves in different containers: expected "
        f"{jax.tree.structure(reference)}, got {jax.tree.structure(tree)}"
    )


def _more(paths: list[str]) -> str:
    return f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""


def _describe(leaf: Any) -> str:
    dtype, shape = getattr(leaf, "dtype", None), getattr(leaf, "shape", None)
    return f"{dtype}{list(shape)}" if dtype is not None and shape is not None else repr(leaf)


def check_gradient(gradient: Any, param: Any, tree: Any, index: int) -> None:
    """Raise unless a gradient is inexact and fits its parameter (None if no parameters were given)."""
    dtype = gradient.dtype
    if dtype == jax.dtypes.float0:
        raise TypeError(
            f"leaf {leaf_paths(tree)[index]}: expected a floating or complex gradient, got float0, which jax.grad "
            "returns for integer parameters; leave such leaves out (None), or mask them"
        )
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"leaf {leaf_paths(tree)[index]}: expected a floating or complex gradient, got {dtype}{list(gradient.shape)}"
        )
    if param is None:
        return
    if gradient.shape != param.shape:
        raise ValueError(
            f"leaf {leaf_paths(tree)[index]}: expected a gradient of the parameter's shape {param.shape}, "
            f"got {gradient.shape}"
        )
    if not jnp.issubdtype(param.dtype, jnp.inexact):
        raise TypeError(
            f"leaf {leaf_paths(tree)[index]}: expected a floating or complex parameter, got {param.dtype}"
            f"{list(param.shape)}; leave such leaves out (None), or mask them"
        )
    if jnp.issubdtype(dtype, jnp.complexfloating) and not jnp.issubdtype(param.dtype, jnp.complexfloating):
        raise TypeError(f"leaf {leaf_paths(tree)[index]}: expected a real gradient for {param.dtype}, got {dtype}")


def fitting(updates: Any, params: Any) -> tuple[list[Any], list[Any] | None, TreeDef]:
    """The leaves of the gradients, those of the parameters (None if there are none given), and their structure.

    Raises:
        ValueError: they do not fit each other.
        TypeError: a leaf is not floating or complex.
    """
    gradients, treedef = flatten(updates, "the gradient")
    leaves = None
    if params is not None:
        leaves, other = flatten(params, "the parameter")
        if other != treedef:
            # The parameters are what the gradients must fit, so they are the reference of the message.
            flatten_like(other, params, updates, "the gradients", "the parameters")
    for i, gradient in enumerate(gradients):
        if leaves is not None or not jnp.issubdtype(gradient.dtype, jnp.inexact):
            check_gradient(gradient, None if leaves is None else leaves[i], updates, i)
    return gradients, leaves, treedef


def slot_leaves(
    treedef: TreeDef, tree: Any, slot: Slot, leaves: list[Any], reference: Any, *, coded: bool = False
) -> list[Any]:
    """A slot's arrays in the order of the leaves; `optax.MaskedNode()` where a leaf has none.

    Raises:
        ValueError: they are of another tree, of other shapes or, where no codec says how they are kept (`coded`), in another
            dtype than the slot's.
    """
    name = slot.name
    try:
        arrays = treedef.flatten_up_to(tree)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"state slot {name!r} does not fit the gradients: it was initialized for another tree. "
            + _structure_message(reference, tree, f"state slot {name!r}", "the gradients")
        ) from error
    for i, (array, leaf) in enumerate(zip(arrays, leaves, strict=True)):
        expected = slot.shape_for(leaf.shape)
        if hasattr(array, "shape") and array.shape != expected:
            needs = "" if slot.role == "parameter" else f", which needs {expected}"
            longer = [a != b for a, b in zip(array.shape, expected or (), strict=False)]
            padded = sum(longer) == 1 and len(array.shape) == len(longer) == len(expected or ())
            raise ValueError(
                f"leaf {leaf_paths(reference)[i]}: state slot {name!r} has shape {array.shape}, the gradient has "
                f"{leaf.shape}{needs}; was the state initialized for other parameters"
                f"{', or padded for other devices (gradtx.repad_state)' if padded else ''}?"
            )
        if not coded and hasattr(array, "dtype") and not _kept_as(slot, array.dtype):
            wanted = "float32 (or wider)" if slot.dtype is None else slot.dtype.name
            raise ValueError(
                f"leaf {leaf_paths(reference)[i]}: expected state slot {name!r} in {wanted}, got {array.dtype}; a dtype that is "
                "replaced leaves the state as it was: gradtx.carry_state(old_tx, state, tx, params) makes the one that fits"
            )
    return arrays


def _kept_as(slot: Slot, dtype: Any) -> bool:
    """Whether a slot may have this dtype, as far as its declaration tells."""
    if slot.dtype_for is not None:
        return True
    return dtype.itemsize >= 4 if slot.dtype is None else dtype == slot.dtype
