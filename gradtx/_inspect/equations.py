"""What a docstring says of a stage: its first sentence and its equation, in LaTeX and in plain characters."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, NamedTuple


class Saying(NamedTuple):
    """What the docstring of a stage says.

    Attributes:
        summary: its first sentence, without the equation.
        equation: the first equation in LaTeX, on one line; empty if there is none.
    """

    summary: str
    equation: str


def saying(tx: Any) -> Saying:
    """Summary and equation of a transformation, from the docstring beside the code that computes it."""
    kind = type(tx)
    builder = getattr(sys.modules.get(kind.__module__), getattr(kind, "built_by", ""), None)
    return read(inspect.getdoc(builder or kind) or "")


def read(doc: str) -> Saying:
    """Summary and equation of a docstring: a displayed equation, or one in the first line."""
    first = doc.strip().split("\n\n")[0].replace("\n", " ")
    displayed = re.search(r"\$\$(.+?)\$\$", doc, re.S)
    inline = re.search(r"[:,]? ?(?<!\$)\$([^$]+(?:\\leftarrow|=)[^$]+)\$(?!\$)", first)
    if displayed:
        return Saying(_sentence(first), " ".join(displayed[1].split()))
    if inline:
        return Saying(_sentence(first.replace(inline[0], "", 1)), " ".join(inline[1].split()))
    return Saying(_sentence(first), "")


def _sentence(text: str) -> str:
    text = re.sub(r"\$([^$]+)\$", lambda m: plain(m[1]), text).replace("`", "")
    text = re.sub(r" Build it with \w+\.$", "", text)
    return re.sub(r"\s+([.,;])", r"\1", text).strip()


# ---- LaTeX as people read it in a terminal ----


def _pairs(names: str, characters: str) -> dict[str, str]:
    return dict(zip(names.split() if " " in names else names, characters, strict=True))


_SYMBOLS = {
    **_pairs("alpha beta gamma delta epsilon eta theta lambda mu nu rho sigma tau phi varphi", "αβγδεηθλμνρστφφ"),
    **_pairs("Delta Sigma Phi", "ΔΣΦ"),
    **_pairs("leftarrow to infty in ni le ge cdot odot otimes oplus sim nabla", "←→∞∈∋≤≥·⊙⊗⊕~∇"),
    **_pairs("langle rangle lfloor rfloor mid sum prod top lVert rVert dots", "⟨⟩⌊⌋|ΣΠT‖‖…"),
    **{"times": "x", "left": "", "right": "", "quad": "  ", "qquad": "   ", ",": " ", ";": " ", "_": "_", "\\": ", "},
}
_ACCENTS = {"hat": "\u0302", "tilde": "\u0303", "bar": "\u0304", "overline": "\u0304"}
_SUBSCRIPTS = _pairs("0123456789+-=()aeijkmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑᵢⱼₖₘₙₒₚᵣₛₜᵤᵥₓ")
_SUPERSCRIPTS = _pairs("0123456789+-=()niktHT", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱᵏᵗᴴᵀ")
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|[{}_^&]|\s+|.", re.S)


def plain(latex: str) -> str:
    r"""LaTeX in plain characters: `\hat m_t` is m̂ₜ, `\frac{a}{b + c}` is a / (b + c)."""
    tokens = _TOKEN.findall(latex)
    text = _sequence(tokens, until=None)
    text = re.sub(r" *(:?=|[←≤≥~∈]) *", r" \1 ", text).replace("if otherwise", "otherwise")
    text = re.sub(r"[ \t]*,[ \t]{2,}", ",  ", text)
    return re.sub(r"(?<!,) {2,}", " ", text).replace(",   ", ",  ").strip()


def _sequence(tokens: list[str], until: str | None) -> str:
    out: list[str] = []
    while tokens:
        token = tokens.pop(0)
        if token == until:
            break
        out.append(_one(token, tokens, out))
    return "".join(out)


def _argument(tokens: list[str]) -> str:
    """The next group or token."""
    while tokens and tokens[0].isspace():
        tokens.pop(0)
    if not tokens:
        return ""
    token = tokens.pop(0)
    return _sequence(tokens, until="}") if token == "{" else _one(token, tokens, [])


def _one(token: str, tokens: list[str], before: list[str]) -> str:
    if token == "{":
        return _sequence(tokens, until="}")
    if token in "_^" and len(token) == 1:
        return _raised(_argument(tokens), token)
    if token == "&":
        return "  if "
    if token.isspace():
        return " "
    if not token.startswith("\\"):
        return token
    name = token[1:]
    if name == "frac":
        above, below = _argument(tokens), _argument(tokens)
        return f"{_grouped(above)} / {_grouped(below, factors=True)}"
    if name == "sqrt":
        inside = _argument(tokens)
        return f"√{inside}" if len(inside) == 1 else f"√({inside})"
    if name in ("lVert", "rVert", "langle", "rangle"):  # no space inside
        while name[0] == "l" and tokens and tokens[0].isspace():
            tokens.pop(0)
        while name[0] == "r" and before and before[-1].isspace():
            before.pop()
    if name in _ACCENTS:
        letter = _argument(tokens)
        return letter[:1] + _ACCENTS[name] + letter[1:]
    if name in ("text", "operatorname", "mathcal"):
        return _argument(tokens)
    if name == "pmod":
        return f"(mod {_argument(tokens)})"
    if name in ("begin", "end"):
        _argument(tokens)
        return "{ " if name == "begin" else " }"
    return _SYMBOLS.get(name, name)


def _raised(text: str, how: str) -> str:
    table = _SUBSCRIPTS if how == "_" else _SUPERSCRIPTS
    squeezed = text.replace(" ", "")
    if squeezed and all(c in table for c in squeezed):
        return "".join(table[c] for c in squeezed)
    return f"{how}{text}" if len(text) == 1 or text.isalpha() else f"{how}({text})"


def _grouped(text: str, *, factors: bool = False) -> str:
    """A part of a fraction, in parentheses where it would otherwise read differently."""
    depth, loose = 0, False
    for i, c in enumerate(text):
        depth += (c in "([⟨") - (c in ")]⟩")
        loose = loose or (depth == 0 and (c in "+-/" or (factors and c == " ")) and i > 0)
    return f"({text})" if loose else text
