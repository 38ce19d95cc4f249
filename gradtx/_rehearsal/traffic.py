"""How many bytes a compiled XLA program moves to and from device memory (HBM), read off its text.

`compiled.cost_analysis()["bytes accessed"]` counts prefetches twice and knows nothing of memory spaces. Here each
instruction of the entry computation counts its operands and its results that live in HBM, with their tiles' padding.
What happens inside a fusion is on chip; while bodies are not looked into (multiply them by their trip count yourself).
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from gradtx._rehearsal.collectives import INSTRUCTION, ITEM_BITS

# What costs no traffic: names for parts of arrays, and the second half of an asynchronous pair.
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "opt-barrier"}
FREE_CUSTOM_CALLS = ("ConcatBitcast", "AllocateBuffer")

_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_OURS = re.compile(r"jit\((gradtx_step|leaf_program|step_scalars)\)")
_MOVING = re.compile(r"/(gather_parameters|scatter_gradients|bring_state|return_state)/")
_COLLECTIVE = re.compile(r"all-|reduce-scatter|collective-")


class Array(NamedTuple):
    """One array in a shape.

    Attributes:
        nbytes: its size in memory, padded to whole tiles.
        in_hbm: False if its layout names another memory space, `S(n)`.
    """

    nbytes: float
    in_hbm: bool


class Traffic(NamedTuple):
    """What one instruction moves."""

    nbytes: float
    opcode: str
    name: str
    shape: str
    scope: str


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape as XLA prints it; a tuple has several, tokens and the like have none."""
    return [_array(m) for m in _SHAPE.finditer(shape) if m.group(1) in ITEM_BITS]


def _array(match: re.Match[str]) -> Array:
    dtype, dims, layout = match.group(1), match.group(2), match.group(3) or ""
    sizes = [int(d) for d in dims.split(",") if d]
    order, tile = re.match(r"\{([\d,]+)", layout), re.search(r"T\(([\d,]+)\)", layout)
    if order and tile:
        sizes = [sizes[int(axis)] for axis in order.group(1).split(",")]  # minor to major
        for i, length in enumerate(reversed([int(n) for n in tile.group(1).split(",")])):
            if i < len(sizes):
                sizes[i] = -(-sizes[i] // length) * length
    return Array(math.prod(sizes) * ITEM_BITS[dtype] / 8, not re.search(r"S\(\d+\)", layout))


def traffic(hlo_text: str) -> list[Traffic]:
    """What each instruction of the entry computation moves, in the order of the program."""
    start = hlo_text.index("\nENTRY")
    shapes: dict[str, str] = {}
    moved = []
    for line in hlo_text[start : hlo_text.index("\n}", start)].split("\n")[2:]:
        match = INSTRUCTION.match(line)
        if not match:
            continue
        name, shape, opcode, operands = match.groups()
        shapes[name] = shape
        if opcode in FREE or opcode.endswith("-done"):
            continue
        if opcode == "custom-call" and any(target in line for target in FREE_CUSTOM_CALLS):
            continue
        results = arrays(shape)
        if opcode == "copy-start":  # (destination, source, context): one of the two ends is in HBM
            nbytes = results[0].nbytes
        elif opcode == "slice-start":  # ((operand), slice, context)
            nbytes = results[1].nbytes
        else:
            names = re.findall(r"%[\w.\-]+", operands)
            inputs = [array for operand in names for array in arrays(shapes.get(operand, ""))]
            nbytes = sum(array.nbytes for array in results + inputs if array.in_hbm)
        scope = re.search(r'op_name="([^"]*)"', line)
        moved.append(Traffic(nbytes, opcode, name, shape, scope[1] if scope else ""))
    return moved


def hbm_bytes(hlo_text: str) -> float:
    """Bytes that one run of a compiled program, `compiled.as_text()`, reads from and writes to HBM."""
    return sum(row.nbytes for row in traffic(hlo_text))


def optimizer_bytes(hlo_text: str) -> float:
    """Of these bytes, those of the arithmetic of gradtx's part of a step: without collectives and what carries them.

    An instruction is counted where its name says that it comes from `gradtx.step` or from a leaf program; a fusion has the
    name of the last operation in it.
    """

    def counts(row: Traffic) -> bool:
        moves = _COLLECTIVE.match(row.opcode) or _MOVING.search(row.scope)
        return bool(_OURS.search(row.scope)) and not moves

    return sum(row.nbytes for row in traffic(hlo_text) if counts(row))
