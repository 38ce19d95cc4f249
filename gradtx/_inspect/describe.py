"""What an optimizer is made of: equations, numbers, state and bytes of every stage, and which leaf goes where."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import trees
from gradtx._core.plan import plan_for
from gradtx._core.stages import Foreign, Stage, is_foreign
from gradtx._core.start import where_stages_act
from gradtx._core.transform import Transform
from gradtx._inspect import walk
from gradtx._inspect.equations import saying
from gradtx._inspect.outline import Line, outline
from gradtx._sharding import abstract_state


class Kept(NamedTuple):
    """A slot of state.

    Attributes:
        name: its name.
        kind: its dtype, or what else says how it is stored.
        bytes: of all leaves together; None if the parameters are not known.
        per_parameter: bytes per parameter; None if that is not known.
    """

    name: str
    kind: str
    bytes: int | None
    per_parameter: float | None


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is said of one line of the outline.

    Attributes:
        line: the line.
        summary: a sentence.
        equation: in LaTeX; empty if its docstring has none.
        kept: its state.
        leaves: the paths of the leaves it acts on; None if the parameters are not known.
        narrowed: whether that are fewer than around it.
    """

    line: Line
    summary: str
    equation: str
    kept: tuple[Kept, ...]
    leaves: tuple[str, ...] | None
    narrowed: bool = False


@dataclasses.dataclass(frozen=True, repr=False)
class Description:
    """What `describe` found. Prints as a table, and shows as one in a notebook.

    Attributes:
        expression: what prints as the transformation.
        entries: one a line: stages, wrappers, scopes, groups.
        parameters: how many there are; None if they are not known.
        leaves: `{path: text}` of every leaf; None if they are not known.
    """

    expression: str
    entries: tuple[Entry, ...]
    parameters: int | None
    leaves: dict[str, str] | None

    @property
    def bytes(self) -> int | None:
        """Of the whole state, but for the step count; None if the parameters are not known."""
        if self.parameters is None:
            return None
        return sum(k.bytes or 0 for entry in self.entries for k in entry.kept)

    @property
    def exact(self) -> bool:
        """Whether nothing depends on parameters that are not known."""
        unknown = ("by shape", "by codec", "depends on the parameters")
        return self.parameters is not None or not any(k.kind.endswith(unknown) for e in self.entries for k in e.kept)

    @property
    def bytes_per_parameter(self) -> float | None:
        """Bytes of state for each parameter; without parameters those of slots of their shape."""
        if self.parameters is None:
            return sum(k.per_parameter or 0.0 for entry in self.entries for k in entry.kept)
        return (self.bytes or 0) / max(self.parameters, 1)

    def __str__(self) -> str:
        from gradtx._inspect.tables import as_text

        return as_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from gradtx._inspect.tables import as_html

        return as_html(self)


def describe(tx: Any, params: Any = None) -> Description:
    """What an optimizer is made of, for reading.

    Args:
        tx: a transformation.
        params: the parameters (or `jax.ShapeDtypeStruct`s), for exact bytes and for which leaf goes where. Nothing is
            computed or allocated.

    Returns:
        A table that prints itself, with a line for every stage: its equation (the one in its docstring), its numbers,
        the state it keeps and what that takes for each parameter; and for every group its leaves. In a notebook it is
        drawn. Without `params` bytes are those for float32 parameters.

    Raises:
        TypeError: `tx` is no transformation.

    Example:
        >>> import gradtx
        >>> print(gradtx.describe(gradtx.sgd(0.1)))  # doctest: +NORMALIZE_WHITESPACE
        1 stage, 0 bytes of state per parameter
        <BLANKLINE>
        stage                   equation   numbers              state (bytes per parameter)
        ──────────────────────  ─────────  ───────────────────  ───────────────────────────
        scale_by_learning_rate  u ← -ηₜ u  learning_rate = 0.1  none
    """
    if is_foreign(tx):
        tx = Foreign(tx)
    if not isinstance(tx, Transform):
        hint = "; call it first" if callable(tx) else ""
        raise TypeError(f"describe: expected a transformation, got {tx!r} of type {type(tx).__name__}{hint}")
    lines = outline(tx)
    if params is None:
        coded = {line.way for line in lines if line.label == "with_storage"}
        kept_by = [any(line.way[: len(way)] == way for way in coded) for line in lines]
        pairs = zip(lines, kept_by, strict=True)
        return Description(
            repr(tx), tuple(_entry(line, _declared(line.tx, coded)) for line, coded in pairs), None, None
        )
    leaves, _ = trees.flatten(params, "the parameter")
    paths = trees.leaf_paths(params)
    found = _Found.of(tx, params, sum(int(np.prod(x.shape)) for x in leaves))
    entries = []
    around: list[tuple[int, list[bool]]] = []  # the groups that a line stands in
    for line in lines:
        while around and around[-1][0] >= line.depth:
            around.pop()
        outside = around[-1][1] if around else [True] * len(leaves)
        acts = found.acts.get(line.way)
        if line.kind == "group":
            number = line.way[-1][1]
            acts = [group == number for group in line.tx.assign(params)]
        here = outside if acts is None else [a and b for a, b in zip(outside, acts, strict=True)]
        if line.kind == "group":
            around.append((line.depth, here))
        kept = found.kept.get(line.way, ())
        mine = tuple(path for path, yes in zip(paths, here, strict=True) if yes)
        entries.append(_entry(line, kept, mine, narrowed=line.kind == "stage" and here != outside))
    described = {p: f"{x.dtype}[{','.join(map(str, x.shape))}]" for p, x in zip(paths, leaves, strict=True)}
    return Description(repr(tx), tuple(entries), found.parameters, described)


def _entry(line: Line, kept: Any, leaves: tuple[str, ...] | None = None, *, narrowed: bool = False) -> Entry:
    if line.kind in ("group", "scope") or isinstance(line.tx, Foreign):
        return Entry(line, "", "", tuple(kept) if line.kind == "stage" else (), leaves, narrowed)
    said = saying(line.tx)
    return Entry(line, said.summary, said.equation, tuple(kept), leaves, narrowed)


def _declared(tx: Any, coded: bool) -> list[Kept]:
    """The state that a stage declares, for float32 parameters."""
    if getattr(tx, "composite", None) is not None:
        return []
    if not isinstance(tx, Stage) or isinstance(tx, Foreign):
        return [Kept("state", "depends on the parameters", None, None)]
    kept = []
    for slot in tx.slots():
        if slot.dtype_for is not None:
            sixteen = slot.dtype_for(np.dtype(jnp.bfloat16))
            shown = "nothing" if sixteen is None else f"{sixteen.name}, of 16-bit parameters"
            kept.append(Kept(slot.name, shown, None, None))
            continue
        dtype = np.dtype(slot.dtype or np.float32)
        size = float(dtype.itemsize) if slot.role == "parameter" else None
        if coded and slot.role != "scalar":
            kept.append(Kept(slot.name, "by codec", None, None))
            continue
        kind = {"parameter": dtype.name, "factored": f"{dtype.name}, by shape", "scalar": f"{dtype.name}, once"}[
            slot.role
        ]
        kept.append(Kept(slot.name, kind, None, size))
    return kept


@dataclasses.dataclass(frozen=True)
class _Found:
    """What the state of some parameters looks like, by the way down to a stage or wrapper."""

    parameters: int
    kept: dict[walk.Way, tuple[Kept, ...]]
    acts: dict[walk.Way, list[bool] | None]

    @classmethod
    def of(cls, tx: Transform, params: Any, parameters: int) -> _Found:
        found = cls(parameters, {}, {})
        for part in walk.parts(tx, abstract_state(tx, params)):
            if not isinstance(part.tx, Stage):
                alone = not getattr(part.tx, "transparent", False)
                own = [name for name in part.state._fields if name not in part.tx.held] if alone else []
                found.kept[part.way] = tuple(found.slot(name, getattr(part.state, name)) for name in own)
                continue
            acts = where_stages_act(plan_for(jax.tree.structure(part.tx)), params)
            for i, (position, entry) in enumerate(zip(walk.positions(part.tx), part.state.stages, strict=True)):
                if position.way is None:
                    continue
                way = (*part.way, *position.way)
                found.acts[way] = acts.get(i)
                if isinstance(entry, dict):
                    found.kept[way] = tuple(found.slot(name, tree) for name, tree in entry.items())
                elif isinstance(position.stage, Foreign) and jax.tree.leaves(entry):
                    found.kept[way] = (found.slot(type(entry).__name__, entry),)
        return found

    def slot(self, name: str, tree: Any) -> Kept:
        arrays = jax.tree.leaves(tree)
        size = sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in arrays)
        kinds = " and ".join(dict.fromkeys(str(x.dtype) for x in arrays))
        if hasattr(tree, "dtype"):  # one array for all parameters
            return Kept(name, f"{kinds}{list(tree.shape) or ''}, once", size, None)
        return Kept(name, kinds or "nothing", size, size / max(self.parameters, 1) if arrays else None)
