"""In which stages two optimizers differ."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from gradtx._core.hyperparameters import Stages
from gradtx._core.spec import fields_of, kind_of
from gradtx._core.stages import Foreign, is_foreign
from gradtx._core.transform import Transform
from gradtx._inspect.outline import Line, outline


@dataclasses.dataclass(frozen=True, repr=False)
class Difference:
    """What `diff` found: prints one line for each difference, and is false if there is none.

    Attributes:
        lines: the differences, in the order of the stages: `+` only the second has it, `-` only the first, `~` both have
            it, with other numbers.
    """

    lines: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.lines)

    def __str__(self) -> str:
        return "\n".join(self.lines) or "no difference"

    __repr__ = __str__


def diff(tx1: Any, tx2: Any) -> Difference:
    """In which stages, wrappers and numbers two optimizers differ.

    Args:
        tx1: a transformation.
        tx2: the one it is compared with.

    Returns:
        Lines that print themselves; false if there is no difference.

    Raises:
        TypeError: one of them is no transformation.

    Example:
        >>> import gradtx
        >>> gradtx.diff(gradtx.adam(1e-3), gradtx.adamw(1e-3))
        + decoupled_weight_decay(weight_decay=0.0001) before scale_by_learning_rate
        >>> gradtx.diff(gradtx.adam(1e-3), gradtx.adam(1e-3, b1=0.8))
        ~ ema_first_moment: b1 0.9 -> 0.8
    """
    first, second = _lines(tx1), _lines(tx2)
    matcher = difflib.SequenceMatcher(None, [_key(x) for x in first], [_key(x) for x in second], autojunk=False)
    found = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            found += [text for x, y in zip(first[a:b], second[c:d], strict=True) for text in _changes(x, y)]
            continue
        found += [f"- {first[i].expression}{_place(first, i, b)}" for i in range(a, b) if first[i].kind != "end"]
        found += [f"+ {second[i].expression}{_place(second, i, d)}" for i in range(c, d) if second[i].kind != "end"]
    return Difference(tuple(found))


def _lines(tx: Any) -> list[Line]:
    if is_foreign(tx):
        tx = Foreign(tx)
    if not isinstance(tx, Transform):
        hint = "; call it first" if callable(tx) else ""
        raise TypeError(f"diff: expected a transformation, got {tx!r} of type {type(tx).__name__}{hint}")
    lines: list[Line] = []
    opened: list[Line] = []
    for line in outline(tx):
        while opened and opened[-1].depth >= line.depth:
            lines.append(opened.pop()._replace(kind="end"))
        lines.append(line)
        if line.kind != "stage":
            opened.append(line)
    return lines + [line._replace(kind="end") for line in reversed(opened)]


def _key(line: Line) -> Any:
    """What makes two lines the same but for their numbers."""
    foreign = id(line.tx.transformation) if isinstance(line.tx, Foreign) else None
    return line.kind, line.label, foreign


def _changes(x: Line, y: Line) -> list[str]:
    if x.kind == "end":
        return []
    changed = [
        f"{name} {x.numbers[name]} -> {y.numbers[name]}" for name in x.numbers if x.numbers[name] != y.numbers[name]
    ]
    if not changed and x.kind in ("stage", "wrapper") and _own(x.tx) != _own(y.tx):
        changed = [
            f"{name} differs, though it prints alike" for name in x.numbers if _value(x, name) != _value(y, name)
        ]
    return [f"~ {x.label}: {', '.join(changed)}"] if changed else []


def _value(line: Line, name: str) -> Any:
    return getattr(line.tx, name)


def _own(tx: Any) -> Any:
    """A stage, or a wrapper without what is inside."""
    return tuple(
        (field.name, getattr(tx, field.name)) for field in fields_of(tx) if not isinstance(kind_of(field), Stages)
    )


def _place(lines: list[Line], start: int, end: int) -> str:
    """Where a line stands: around others, before the next stage, or last."""
    line = lines[start]
    if line.kind != "stage":
        inside = []
        for other in lines[start + 1 :]:
            if other.depth <= line.depth:
                break
            inside.append(other.label)
        ends = list(dict.fromkeys(inside[:1] + inside[-1:]))
        return f" around {' to '.join(ends)}" if ends else ""
    following = next((other for other in lines[end:] if other.kind != "end"), None)
    return f" before {following.label}" if following else " at the end"
