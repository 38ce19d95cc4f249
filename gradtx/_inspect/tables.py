"""A description as text, and as HTML."""

from __future__ import annotations

import html
import re
import textwrap
import unicodedata
from typing import TYPE_CHECKING

from gradtx._inspect.equations import plain

if TYPE_CHECKING:
    from gradtx._inspect.describe import Description, Entry, Kept

_HEADS = ("stage", "equation", "numbers", "state (bytes per parameter)")
_WIDTHS = (30, 52, 34, 34)  # a table of four such columns still fits most terminals
_LISTED = 24  # leaves of one group that are listed; more are counted


def as_text(found: Description) -> str:
    """A table for a terminal, and the leaves of every group."""
    rows = [_cells(entry) for entry in found.entries]
    widths = [max([_width(head), *(_width(line) for row in rows for line in row[i])]) for i, head in enumerate(_HEADS)]
    lines = [_headline(found), "", _joined(_HEADS, widths), _joined(["─" * w for w in widths], widths)]
    for row in rows:
        for k in range(max(map(len, row))):
            lines.append(_joined([cell[k] if k < len(cell) else "" for cell in row], widths))
    notes = _notes(found)
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _headline(found: Description) -> str:
    stages = sum(entry.line.kind == "stage" for entry in found.entries)
    least = "" if found.exact else "at least "
    size = f"{least}{_number(found.bytes_per_parameter)} bytes of state per parameter"
    if any(kept.kind == "by codec" for entry in found.entries for kept in entry.kept):
        size = "state by codecs, whose bytes depend on the parameters"
    text = f"{_count(stages, 'stage', 'stages')}, {size}"
    if found.parameters is None:
        return text
    assert found.leaves is not None
    return f"{text}: {found.bytes:,} bytes for {found.parameters:,} parameters in {_count(len(found.leaves), 'leaf', 'leaves')}"


def _cells(entry: Entry) -> list[list[str]]:
    indent = "  " * entry.line.depth
    label = indent + entry.line.label + (":" if entry.line.kind in ("group", "scope") else "")
    said = [line for part in re.split(r",  ", plain(entry.equation)) for line in _wrapped(part, _WIDTHS[1])]
    if not entry.equation:
        said = _wrapped(entry.summary, _WIDTHS[1])
    numbers = [line for k, v in _shown(entry).items() for line in _wrapped(f"{k} = {v}", _WIDTHS[2])]
    state = [_slot(kept) for kept in entry.kept] or ([] if entry.line.kind in ("group", "scope") else ["none"])
    return [
        textwrap.wrap(label, _WIDTHS[0], subsequent_indent=indent + "  ", break_on_hyphens=False),
        said,
        numbers,
        state,
    ]


def _shown(entry: Entry) -> dict[str, str]:
    """The numbers, and of the choices those that are not the default."""
    line = entry.line
    numeric = line.tx._split()[0] if hasattr(line.tx, "_split") else ()
    return {k: v for k, v in line.numbers.items() if v != "None" and (k in numeric or k not in line.defaults)}


def _slot(kept: Kept) -> str:
    size = "" if kept.per_parameter is None else f" {_number(kept.per_parameter)}"
    return f"{kept.name}: {kept.kind}{size}"


def _notes(found: Description) -> list[str]:
    if found.leaves is None:
        return []
    notes = []
    for entry in found.entries:
        assert entry.leaves is not None
        if entry.line.kind == "group":
            notes.append(f"{entry.line.label}: {_count(len(entry.leaves), 'leaf', 'leaves')}")
            notes += [f"    {path}  {found.leaves[path]}" for path in entry.leaves[:_LISTED]]
            if len(entry.leaves) > _LISTED:
                notes.append(f"    and {len(entry.leaves) - _LISTED} more")
        elif entry.narrowed:
            listed = ", ".join(entry.leaves[:_LISTED]) or "none"
            more = f" and {len(entry.leaves) - _LISTED} more" if len(entry.leaves) > _LISTED else ""
            notes.append(
                f"{entry.line.label} acts on {len(entry.leaves)} of {len(found.leaves)} leaves: {listed}{more}"
            )
    return notes


def _count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _number(x: float | None) -> str:
    return f"{x or 0.0:.3g}" if (x or 0.0) < 1000 else f"{x:,.0f}"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _width(text: str) -> int:
    return sum(not unicodedata.combining(c) for c in text)


def _joined(cells: list[str] | tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(c + " " * (w - _width(c)) for c, w in zip(cells, widths, strict=True)).rstrip()


# ---- notebooks ----

_CELL = ' style="text-align:left;vertical-align:top"'


def as_html(found: Description) -> str:
    """A table for a notebook, which sets the equations."""
    rows = []
    for entry in found.entries:
        heading = entry.line.kind in ("group", "scope")
        indent = f"padding-left:{0.5 + 1.5 * entry.line.depth}em"
        label = f"<code>{html.escape(entry.line.label)}</code>"
        said = (
            f'<span title="{html.escape(plain(entry.equation))}">$\\displaystyle {html.escape(entry.equation)}$</span>'
        )
        if not entry.equation:
            said = html.escape(entry.summary)
        numbers = "<br>".join(f"{html.escape(k)} = {html.escape(v)}" for k, v in _shown(entry).items())
        state = "<br>".join(html.escape(_slot(kept)) for kept in entry.kept) or ("" if heading else "none")
        if heading and entry.leaves is not None:
            said = _leaves(found, entry)
        first = (
            f'<td style="text-align:left;vertical-align:top;{indent}" title="{html.escape(entry.summary)}">{label}</td>'
        )
        rows.append("<tr>" + first + "".join(f"<td{_CELL}>{cell}</td>" for cell in (said, numbers, state)) + "</tr>")
    head = "".join(f"<th{_CELL}>{text}</th>" for text in _HEADS)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in _notes(found) if " acts on " in note)
    return (
        f"<div><p>{html.escape(_headline(found))}</p><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>{notes}</div>"
    )


def _leaves(found: Description, entry: Entry) -> str:
    assert found.leaves is not None
    assert entry.leaves is not None
    items = "".join(f"<li><code>{html.escape(p)}</code> {html.escape(found.leaves[p])}</li>" for p in entry.leaves)
    return f"<details><summary>{_count(len(entry.leaves), 'leaf', 'leaves')}</summary><ul>{items}</ul></details>"
