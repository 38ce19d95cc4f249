"""The state of a padded run on another mesh: zeros cut off, or appended."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import trees
from gradtx._core.transform import Transform
from gradtx._sharding import abstract_state, in_memory
from gradtx._wrappers.sharding import ShardState


def repad_state(state: Any, tx: Transform, params: Any) -> Any:
    """A state in the shapes that `tx` keeps on its mesh, from one that was padded for another, or for none.

    What `shard_state(pad=True)` appends to a parameter follows from the number of devices, so a checkpoint of such a run fits
    no other number. Each array of the state is cut to its parameter, and gets the zeros that belong to it here.

    Args:
        state: a state of the same transformation around or inside another `shard_state`, or without one: jax or NumPy arrays,
            in the tree that `tx.init(params)` has. They may lie on other devices, if this process sees all of them.
        tx: the transformation that goes on; or the one inside, for a state without padding.
        params: its parameters, or their shapes with shardings on its mesh.

    Returns:
        A tree like `tx.init(params)`, each array where `state_shardings(tx, params)` says. `state` stays as it is.

    Raises:
        ValueError: the tree is another; or an array differs by more than zeros at the end of one dimension: in its dtype, in
            several dimensions, shorter than the parameter, or what is cut off is not one value throughout.
        TypeError: `tx` is no transformation of gradtx, or a leaf of the state no array: a shape, or traced.

    Example:
        >>> import gradtx, jax, jax.numpy as jnp
        >>> params, inside = {"w": jnp.ones((7, 3))}, gradtx.sgd(0.1, momentum=0.9)
        >>> mesh = jax.sharding.AbstractMesh((4,), ("data",))
        >>> tx = gradtx.shard_state(inside, mesh, min_size=1, pad=True)
        >>> gradtx.abstract_state(tx, params).stages[0]["trace"]["w"].shape
        (8, 3)
        >>> saved = gradtx.State(jnp.int32(2), ({"trace": {"w": jnp.zeros((8, 3))}}, ()))
        >>> gradtx.repad_state(saved, inside, params).stages[0]["trace"]["w"].shape
        (7, 3)
    """
    if not isinstance(tx, Transform):
        raise TypeError(f"repad_state(state, tx, params): expected a gradtx transformation as tx, got {tx!r}")
    for path, x in zip(trees.leaf_paths(state), jax.tree.leaves(state), strict=True):
        if not isinstance(x, (jax.Array, np.ndarray, np.generic)) or isinstance(x, jax.core.Tracer):
            raise TypeError(
                f"repad_state: leaf {path}: expected a jax or NumPy array, got {x!r}; it reads the zeros, so call it outside "
                "jax.jit, with arrays and no shapes"
            )
    wanted, own = abstract_state(tx, params), abstract_state(unpadded(tx), params)
    structure: Any = jax.tree.structure(wanted)
    if structure != jax.tree.structure(state):
        raise ValueError(
            f"repad_state: expected a tree like the state of {tx!r}, {structure}, got {jax.tree.structure(state)}; "
            "gradtx.check_state says what differs"
        )
    new = [
        _fitted(path, x, tuple(mine.shape), want)
        for path, x, mine, want in zip(
            trees.leaf_paths(wanted), jax.tree.leaves(state), jax.tree.leaves(own), jax.tree.leaves(wanted), strict=True
        )
    ]
    return jax.tree.unflatten(structure, new)


def longer_in(got: Any, wanted: Any) -> int | None:
    """The one dimension in which a shape is longer than another; None if they differ otherwise, or not at all."""
    if len(got) != len(wanted):
        return None
    others = [d for d, (a, b) in enumerate(zip(got, wanted, strict=True)) if a != b]
    return others[0] if len(others) == 1 and got[others[0]] > wanted[others[0]] else None


def unpadded(tx: Any) -> Any:
    """The same transformation, in which nothing is padded."""
    parts = {name: getattr(tx, name, ()) for name in ("transforms", "stages")}
    new = {name: tuple(map(unpadded, held)) for name, held in parts.items()}
    changes: dict[str, Any] = {
        n: new[n] for n in parts if any(a is not b for a, b in zip(new[n], parts[n], strict=True))
    }
    if isinstance(tx, ShardState) and tx.pad:
        changes["pad"] = False
    return tx._with(**changes) if changes else tx


def _fitted(path: str, x: Any, own: tuple[int, ...], want: Any) -> jax.Array:
    """An array in the shape and place that are wanted; `own`: its shape without padding."""
    axis = longer_in(x.shape, own)
    if x.dtype != want.dtype or (axis is None and tuple(x.shape) != own):
        raise ValueError(
            f"repad_state: leaf {path}: expected {want.dtype}{list(own)}, or that with zeros at the end of one dimension, got "
            f"{x.dtype}{list(x.shape)}"
        )
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        held: Any = np.asarray(x)  # on whatever devices, and in whichever memory
    else:
        held = in_memory(x, jax.memory.Space.Device)
    if axis is not None and not _is_one_value(held, axis, own[axis]):
        raise ValueError(
            f"repad_state: leaf {path}: expected the padding of {list(own)} behind {own[axis]} along dimension {axis}, got "
            f"{x.dtype}{list(x.shape)} with several values there: it is no padding, and this state another model's"
        )
    if tuple(x.shape) == tuple(want.shape):
        return jax.device_put(held, want.sharding, may_alias=False)  # a step that takes it uses it up
    widths = [(0, new - old) for old, new in zip(own, want.shape, strict=True)]
    mine = tuple(slice(n) for n in own)
    if isinstance(held, np.ndarray):
        return jax.device_put(np.pad(held[mine], widths), want.sharding)
    place = want.sharding.with_memory_kind("device")
    return jax.device_put(jax.jit(lambda x: jnp.pad(x[mine], widths), out_shardings=place)(held), want.sharding)


def _is_one_value(x: Any, axis: int, start: int) -> bool:
    """Whether all elements from here on along an axis are the same: those of padding have all seen the same."""
    behind = x[tuple(slice(start if d == axis else 0, None) for d in range(x.ndim))]
    one = behind[(slice(1),) * behind.ndim]
    return bool(((behind == one) | ((behind != behind) & (one != one))).all())  # NaN: as a failed run leaves it
