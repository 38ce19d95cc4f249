"""Checkpoints: whether a state that was saved is one that this transformation can go on with, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jax
import optax

from gradtx._core import trees
from gradtx._core.order import label
from gradtx._core.plan import plan_for
from gradtx._core.stages import Foreign, Stage, Wrapped
from gradtx._core.transform import Transform
from gradtx._inspect.walk import positions
from gradtx._repadding import longer_in, unpadded
from gradtx._sharding import abstract_state

FORMAT = 1  # of the state's layout; a change to it that old checkpoints do not fit counts it up


def state_manifest(tx: Transform, params: Any) -> dict[str, Any]:
    """What a state of `tx` is made of, as plain data for a JSON file beside a checkpoint.

    Arrays alone do not say what they mean: two codecs may keep a slot in arrays of one shape and type. Save this with the
    state, and give it to `check_state` before restoring.

    Args:
        tx: a gradtx transformation.
        params: a tree of arrays or of `jax.ShapeDtypeStruct`s.

    Returns:
        `"format"`: the version of the state's layout, an int; `"transformation"`: `tx` as it prints; `"stages"`: what keeps
        state where, by path; `"arrays"`: dtype and shape of each array, by path.
    """
    if not isinstance(tx, Transform):
        raise TypeError(f"state_manifest: expected a gradtx transformation, got {tx!r}; wrap Optax's: gradtx.chain(tx)")
    arrays = {path: _kind(x) for path, x in _entries(abstract_state(tx, params)).items() if x is not None}
    return {"format": FORMAT, "transformation": repr(tx), "stages": dict(_stages(tx, "")), "arrays": arrays}


def check_state(tx: Transform, params: Any, state: Any) -> None:
    """Raise, with a list of the differences, unless a state is one that `tx` keeps for these parameters.

    Args:
        tx: a gradtx transformation.
        params: the parameters, or their shapes.
        state: a state; or what a checkpoint says of one: shapes, a tree of orbax's metadata, a restored tree of dicts and
            lists; or the dict that `state_manifest` made when it was saved.

    Raises:
        ValueError: slots are new, gone, moved, or of another shape or dtype; parameters are; a stage or codec is another
            one (from a manifest); or the manifest's format is newer than this version of gradtx knows.

    Example:
        >>> import gradtx, jax.numpy as jnp
        >>> params = {"w": jnp.ones((3, 4))}
        >>> saved = gradtx.sgd(0.1, momentum=0.9).init(params)
        >>> gradtx.check_state(gradtx.sgd(0.1, momentum=0.9), params, saved)
        >>> gradtx.check_state(gradtx.sgd(0.1), params, saved)
        Traceback (most recent call last):
        ...
        ValueError: the state is not one of chain(scale_by_learning_rate(0.1)):
          gone: stages/0/trace, 1 array, float32[3, 4]: the state has it, nothing keeps it now
          stages: 2 in the state, 1 now
    """
    expected = state_manifest(tx, params)
    now = _entries(abstract_state(tx, params))
    lines = []
    if _is_manifest(state):
        if state["format"] > FORMAT:
            raise ValueError(
                f"the checkpoint's state has format {state['format']}, and this gradtx knows {FORMAT}: update gradtx"
            )
        found = {path: [str(dtype), list(shape)] for path, (dtype, shape) in state["arrays"].items()}
        lines += _other_stages(
            state["stages"], expected["stages"], [path for path in found if path in expected["arrays"]]
        )
    else:
        then = _entries(state)
        found = {path: _kind(x) for path, x in then.items() if x is not None}
    lines += _differences(found, expected["arrays"], expected["stages"])
    if not _is_manifest(state):
        lines += _counts(then, now)
    if _only_padded_otherwise(found, now, _entries(abstract_state(unpadded(tx), params))):
        lines.append(
            "padding: where only lengths differ, gradtx.repad_state(state, tx, params) cuts off the zeros of "
            "shard_state(pad=True), or appends them"
        )
    if lines:
        raise ValueError(f"the state is not one of {tx!r}:\n" + "\n".join(f"  {line}" for line in lines))


def _only_padded_otherwise(found: dict[str, list[Any]], now: dict[str, Any], bare: dict[str, Any]) -> bool:
    """Whether arrays were padded for another number of devices, and differ in nothing else."""
    both = [path for path in found if now.get(path) is not None and bare.get(path) is not None]
    shapes = [(found[path][1], list(now[path].shape), list(bare[path].shape)) for path in both]
    others = [(old, own) for old, new, own in shapes if old != new]
    padded = any(new != own for _, new, own in shapes) or any(old != own for old, own in others)
    return bool(others) and padded and all(old == own or longer_in(old, own) is not None for old, own in others)


def _is_manifest(state: Any) -> bool:
    return isinstance(state, dict) and {"format", "stages", "arrays"} <= set(state) and isinstance(state["format"], int)


def _entries(state: Any) -> dict[str, Any]:
    """The arrays of a state by path, and None for each place in it that is there and empty."""

    def is_leaf(x: Any) -> bool:
        return x is None or isinstance(x, optax.MaskedNode) or (isinstance(x, (tuple, list, dict)) and not x)

    flat = jax.tree_util.tree_flatten_with_path(state, is_leaf=is_leaf)[0]
    return {trees.path_name(path): None if is_leaf(x) else x for path, x in flat}


def _kind(x: Any) -> list[Any]:
    return [str(x.dtype), [int(n) for n in x.shape]]


def _stages(tx: Any, path: str) -> Iterator[tuple[str, str]]:
    """What keeps state where: the label of each stage, and of each wrapper, with the codecs of its slots."""
    if getattr(tx, "transparent", False):
        yield from _stages(tx.tx, path)
        return
    if not isinstance(tx, Stage):
        yield path.removesuffix("/"), getattr(tx, "built_by", type(tx).__name__)
        for inside, field in zip(getattr(tx, "transforms", ()), tx.held, strict=True):
            yield from _stages(inside, f"{path}{field}/")
        return
    plan = plan_for(jax.tree.structure(tx))
    codecs: dict[int, list[str]] = {}
    for unit in plan.units:
        codecs.setdefault(unit.home, []).append(repr(unit.codec))
    for i, position in enumerate(positions(tx)):
        here = f"{path}stages/{i}"
        if isinstance(position.stage, Wrapped):
            yield from _stages(position.stage.transformation, f"{here}/")
        elif position.stage is not None:
            name = position.stage._expression() if isinstance(position.stage, Foreign) else label(position.stage)
            yield here, " in ".join([name, *codecs.get(i, [])])


def _other_stages(old: dict[str, str], new: dict[str, str], common: list[str]) -> list[str]:
    """Arrays that look the same and are another stage's, or in another code."""
    return [
        f"other: {path} was kept by {old[path]}, and is kept by {new[path]} now"
        for path in old
        if path in new and old[path] != new[path] and any(p.startswith(f"{path}/") for p in common)
    ]


def _counts(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Chains in both that have more or fewer stages now, those without arrays included."""

    def lengths(paths: dict[str, Any]) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in paths:
            for match in re.finditer(r"\bstages/(\d+)", path):
                chain = path[: match.start(1) - 1]
                found[chain] = max(found.get(chain, 0), int(match[1]) + 1)
        return found

    before, after = lengths(old), lengths(new)
    return [f"{c}: {before[c]} in the state, {after[c]} now" for c in before if c in after and before[c] != after[c]]


def _differences(old: dict[str, Any], new: dict[str, Any], stages: dict[str, str]) -> list[str]:
    """What is in the one and not in the other, slot by slot."""
    lines = []
    for path in (p for p in new if p in old):
        if old[path] != new[path]:
            lines.append(
                f"other: {path}{_owner(path, stages)} is {_show(old[path])} in the state, and {_show(new[path])} now"
            )
    gone, fresh = _slots(p for p in old if p not in new), _slots(p for p in new if p not in old)
    for slot in list(gone):
        there = [
            s for s in fresh if _name(s) == _name(slot) and [new[p] for p in fresh[s]] == [old[p] for p in gone[slot]]
        ]
        if there:
            lines.append(f"moved: {slot} is {there[0]}{_owner(there[0] + '/', stages)} now")
            del gone[slot], fresh[there[0]]
    for slot, paths in gone.items():
        lines.append(f"gone: {slot}, {_count(paths, old)}: the state has it, nothing keeps it now")
    for slot, paths in fresh.items():
        lines.append(f"new: {slot}{_owner(slot + '/', stages)}, {_count(paths, new)}: the state does not have it")
    return lines


def _slots(paths: Iterator[str]) -> dict[str, list[str]]:
    """Paths by the slot they belong to: `stages/0/mu` of `stages/0/mu/layer/w`."""
    found: dict[str, list[str]] = {}
    for path in paths:
        match = re.match(r"(.*\bstages/\d+(?:/\w+)?)(?:/|$)", path)
        found.setdefault(match[1] if match else path.split("/")[0], []).append(path)
    return found


def _name(slot: str) -> str:
    return slot.rpartition("/")[2]


def _owner(path: str, stages: dict[str, str]) -> str:
    owners = [place for place in stages if place and path.startswith(f"{place}/")]
    return f" ({stages[max(owners, key=len)]})" if owners else ""


def _count(paths: list[str], kinds: dict[str, Any]) -> str:
    arrays = [kinds[p] for p in paths]
    return (
        f"{len(arrays)} array{'s' if len(arrays) > 1 else ''}, {_show(arrays[0])}{', ...' if len(arrays) > 1 else ''}"
    )


def _show(kind: Any) -> str:
    return f"{kind[0]}{kind[1]}" if kind[1] else kind[0]
