"""Reading a run back: checked before anything is read, and with errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from gradtx._checkpoints import check_state
from gradtx._core import trees
from gradtx._core.transform import Transform
from gradtx._sharding import abstract_state


def restore_run(read: Callable[[Any], Any], tx: Transform, params: Any, *, saved: Any = None) -> tuple[Any, Any]:
    """Parameters and state from a checkpoint, or an error that says what is wrong with it and what to do.

    What is running is untouched: new arrays are returned, or an error raised.

    Args:
        read: reads `{"params": ..., "state": ...}` into a tree of shapes with shardings that it is given:
            `lambda like: checkpointer.restore(path, like)`, with a checkpointer of orbax.
        tx: a gradtx transformation, that of the run that goes on.
        params: its parameters, or their shapes with shardings: where the restored ones will lie.
        saved: what is known of the saved state before it is read: `state_manifest(...)` as it was saved beside it, or
            orbax's metadata of it; given to `check_state`.

    Returns:
        `(params, state)`.

    Raises:
        ValueError: the saved state is another chain's or another model's (a list of the differences); or it cannot be read:
            truncated, damaged, of other shapes.

    Example:
        with ocp.CheckpointManager(folder) as manager:
            step = manager.latest_step()
            read = lambda like: manager.restore(step, args=ocp.args.StandardRestore(like))
            params, state = gradtx.restore_run(read, tx, shapes)
    """
    if saved is not None:
        check_state(tx, params, saved)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_place(x)), params)
    like = {"params": shapes, "state": abstract_state(tx, params)}
    try:
        run = read(like)
    except Exception as error:  # of a type of its own for each cause and each reader
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"the checkpoint cannot be read: {reason[:300]}. It is truncated or damaged, or another model's. Go on from an "
            "older one (orbax's manager lists them: manager.all_steps()); nothing that is running was changed"
        ) from error
    wanted, found = str(jax.tree.structure(like)), str(jax.tree.structure(run))
    if wanted != found:
        raise ValueError(
            f"restore_run: expected read(like) to return a tree like the one it is given, {wanted}, got {found}"
        )
    for path, want, got in zip(trees.leaf_paths(like), jax.tree.leaves(like), jax.tree.leaves(run), strict=True):
        if (got.shape, got.dtype) != (want.shape, want.dtype):
            raise ValueError(
                f"the checkpoint is another model's: {path} is {got.dtype}{list(got.shape)} in it, and "
                f"{want.dtype}{list(want.shape)} now"
            )
    return run["params"], run["state"]


def _place(x: Any) -> Any:
    """Where an array was put on purpose; None for one that was not."""
    return None if isinstance(x, jax.Array) and not x.committed else getattr(x, "sharding", None)
