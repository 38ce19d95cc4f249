"""Padding: which leaves zeros may be appended to, and along which dimension an array is padded to be split."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from gradtx._core.order import label
from gradtx._core.plan import plan_for
from gradtx._core.stages import Stage, Wrapped
from gradtx._core.start import as_stages_act, only, where_stages_act, with_numbers
from gradtx._placements import in_tiles, local_shape, names_in, split_spec
from gradtx._sharding import full_spec


class Leave(NamedTuple):
    """What stages, wrappers and codecs say of padding one leaf.

    Attributes:
        refused: what keeps it from being padded; empty: nothing.
        drawn: what draws random bits for each element, so that only the first dimension may grow; empty: nothing.
        acting: the names of all that acts on the leaf.
    """

    refused: str
    drawn: str
    acting: tuple[str, ...]

    @property
    def why(self) -> str:
        """Why it is not padded, if it might have been."""
        if self.refused:
            return self.refused
        return f"{self.drawn} allows only the first dimension" if self.drawn else "every dimension is split already"


class Padding(NamedTuple):
    """Zeros at the end of one dimension.

    Attributes:
        axis: the dimension.
        length: of the dimension, padded.
    """

    axis: int
    length: int

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the padded array."""
        return tuple(self.length if d == self.axis else n for d, n in enumerate(shape))


def paddings_of(
    tx: Any, shapes: Any, homes: list[PartitionSpec], mesh: Any, axes: tuple[str, ...], min_size: int
) -> tuple[list[Padding | None], list[Leave]]:
    """What each leaf of a tree of shapes is padded with, and what its stages say of that."""
    leaves, treedef = jax.tree.flatten(shapes)
    leave = leaves_to_pad(tx, shapes)
    found = [
        None if may.refused else padding_of(tuple(leaf.shape), home, mesh, axes, min_size, first=bool(may.drawn))
        for leaf, home, may in zip(leaves, homes, leave, strict=True)
    ]
    if any(found):
        # A mask or a codec may look at shapes: what it makes of the padded ones has to be the same.
        longer = [
            x if padding is None else jax.ShapeDtypeStruct(padding.shape(x.shape), x.dtype)
            for x, padding in zip(leaves, found, strict=True)
        ]
        then = leaves_to_pad(tx, jax.tree.unflatten(treedef, longer))
        for i, (before, after) in enumerate(zip(leave, then, strict=True)):
            if found[i] and before.acting != after.acting:
                other = next(iter(sorted({*before.acting} ^ {*after.acting})), "a mask")
                found[i], leave[i] = None, before._replace(refused=f"{other} acts on it or not by its shape")
    return found, leave


def leaves_to_pad(tx: Any, params: Any) -> list[Leave]:
    """For each leaf whether it may be padded, by what acts on it."""
    found = []
    for things in _acting(tx, params):
        refused = [_name(x) for x in things if not x.ignores_zeros]
        drawn = [_name(x) for x in things if getattr(x, "randomized", False)]
        found.append(
            Leave(
                f"{refused[0]} does not ignore zeros" if refused else "",
                next(iter(drawn), ""),
                tuple(map(_name, things)),
            )
        )
    return found


def padding_of(
    shape: tuple[int, ...], home: PartitionSpec, mesh: Any, axes: tuple[str, ...], min_size: int, *, first: bool
) -> Padding | None:
    """The zeros with which the axes that do not split an array split it too; None if all do, or none can.

    Along one dimension that is whole where the array belongs and longer than 1: rather one that no axis splits yet than one
    that some do, then that whose parts fill least of a TPU's tiles, the longest, the first.

    Args:
        shape: the array's.
        home: how it lies where it belongs.
        mesh: the mesh.
        axes: those it is to be split over.
        min_size: arrays with fewer elements stay whole.
        first: whether only the first dimension may grow.
    """
    if math.prod(shape) < max(min_size, 1):
        return None
    split = [names_in(entry) for entry in split_spec(shape, home, mesh, axes, min_size)]
    parts = math.prod(mesh.shape[a] for a in axes if not any(a in names for names in split))
    if parts == 1:
        return None

    def padding(d: int) -> Padding:
        multiple = parts * math.prod(mesh.shape[a] for a in split[d])
        return Padding(d, -(-shape[d] // multiple) * multiple)

    def cost(d: int) -> tuple[Any, ...]:
        local = local_shape(padding(d).shape(shape), split, mesh)
        return bool(split[d]), in_tiles(local, d, parts), -local[d], d

    belongs = full_spec(home, len(shape))
    fitting = [d for d in range(1 if first else len(shape)) if shape[d : d + 1] > (1,) and not names_in(belongs[d])]
    return padding(min(fitting, key=cost)) if fitting else None


def _acting(tx: Any, params: Any) -> list[list[Any]]:
    """For each leaf the stages, wrappers and codecs that see it."""
    leaves, treedef = jax.tree.flatten(params)
    if not isinstance(tx, Stage):
        inside = [_acting(part, params) for part in tx.transforms]
        return [[tx, *(x for part in inside for x in part[i])] for i in range(len(leaves))]
    plan = plan_for(jax.tree.structure(tx))
    acts, others = where_stages_act(plan, params), as_stages_act(plan, params)
    found: list[list[Any]] = [[] for _ in leaves]
    for k, stage in enumerate(with_numbers(plan, tx)):
        mine = acts.get(k)
        here = [i for i in range(len(leaves)) if mine is None or mine[i]]
        if isinstance(stage, Wrapped):
            seen = params if mine is None else only(treedef, leaves, mine)
            for i, things in zip(here, _acting(stage.transformation, seen), strict=True):
                found[i] += things
            continue
        if getattr(stage, "keywords", ()) and not stage.ignores_zeros:  # functions of all parameters
            here = list(range(len(leaves)))
        for i in here:
            found[i].append(others[k][i] if k in others else stage)
    for unit in plan.units:
        members = [acts.get(k) for k, _ in unit.members]
        for i, leaf in enumerate(leaves):
            if all(mine is None or mine[i] for mine in members) and unit.codec.fits(tuple(leaf.shape)):
                found[i].append(unit.codec)
    return found


def _name(x: Any) -> str:
    if isinstance(x, Stage):
        return label(x)
    return getattr(x, "built_by", type(x).__name__)
