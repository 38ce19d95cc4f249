"""A transformation as lines: its stages, scopes, groups and wrappers from top to bottom."""

from __future__ import annotations

from typing import Any, NamedTuple

from gradtx._core.hyperparameters import Stages
from gradtx._core.spec import fields_of, is_default, kind_of, show_static
from gradtx._core.stages import Foreign, Wrapped
from gradtx._groups import show_pattern
from gradtx._inspect.walk import Way


class Line(NamedTuple):
    """One line of the outline.

    Attributes:
        depth: how far inside it stands.
        kind: what it is; a `"group"` and a `"scope"` are headings of the lines inside them.
        tx: the stage or wrapper; the whole composite for a heading.
        way: the way down to it from the root, as in `addresses.Place`.
        label: what it is called: its name, if it has one, and its function; a group's pattern.
        numbers: its hyperparameters, as one would type them, `{field: text}`.
        defaults: the same of those that have their default.
    """

    depth: int
    kind: str
    tx: Any
    way: Way
    label: str
    numbers: dict[str, str]
    defaults: dict[str, str]

    @property
    def expression(self) -> str:
        """What builds this line alone."""
        if self.kind == "group" or isinstance(self.tx, Foreign):
            return self.label
        changed = {k: v for k, v in self.numbers.items() if k not in self.defaults}
        return f"{self.label}({', '.join(f'{k}={v}' for k, v in changed.items())})"


def outline(tx: Any, depth: int = 0, way: Way = ()) -> list[Line]:
    """The lines of a transformation."""
    if isinstance(tx, Wrapped):
        return outline(tx.transformation, depth, (*way, ("transforms", 0)))
    composite = getattr(tx, "composite", None)
    if composite == "chain":
        return [line for i, part in enumerate(tx.stages) for line in outline(part, depth, (*way, ("stages", i)))]
    if composite == "stored":
        inside = [line for i, part in enumerate(tx.stages) for line in outline(part, depth + 1, (*way, ("stages", i)))]
        return [Line(depth, "wrapper", tx, way, "with_storage", {"rules": tx.rules.shown}, {}), *inside]
    if composite == "scope":
        inside = [line for i, part in enumerate(tx.stages) for line in outline(part, depth + 1, (*way, ("stages", i)))]
        return [Line(depth, "scope", tx, way, "scope", {}, {}), *inside]
    if composite == "groups":
        lines = []
        for i, (pattern, part) in enumerate(zip(tx.patterns, tx.stages, strict=True)):
            here = (*way, ("stages", i))
            lines.append(Line(depth, "group", tx, here, show_pattern(pattern), {}, {}))
            lines += outline(part, depth + 1, here)
        return lines
    own = Line(depth, "stage", tx, way, _label(tx), *_numbers(tx))
    if not tx.held:
        return [own]
    inside = [
        line for i, part in enumerate(tx.transforms) for line in outline(part, depth + 1, (*way, ("transforms", i)))
    ]
    return [own._replace(kind="wrapper"), *inside]


def _label(tx: Any) -> str:
    label = tx._expression() if isinstance(tx, Foreign) else getattr(tx, "built_by", type(tx).__name__)
    name = tx.__dict__.get("_name")
    return f"{name}: {label}" if name else label


def _numbers(tx: Any) -> tuple[dict[str, str], dict[str, str]]:
    shown: dict[str, str] = {}
    defaults: dict[str, str] = {}
    for field in fields_of(tx) if not isinstance(tx, Foreign) else ():
        kind, value = kind_of(field), getattr(tx, field.name)
        if isinstance(kind, Stages):
            continue
        shown[field.name] = kind.show(value) if kind is not None else show_static(value)
        if is_default(value, field.default):
            defaults[field.name] = shown[field.name]
    return shown, defaults
