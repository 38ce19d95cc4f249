"""The collectives of a compiled XLA program, read off its text: what moves between devices, how often, and for whom."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
ITEM_BITS = {
    **dict.fromkeys(["s4", "u4", "f4e2m1fn"], 4),
    **dict.fromkeys(["pred", "s8", "u8", "f8e4m3", "f8e4m3fn", "f8e5m2", "f8e3m4", "f8e4m3b11fnuz", "f8e8m0fnu"], 8),
    **dict.fromkeys(["s16", "u16", "bf16", "f16"], 16),
    **dict.fromkeys(["s32", "u32", "f32"], 32),
    **dict.fromkeys(["s64", "u64", "f64", "c64"], 64),
    "c128": 128,
}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"\s*(?:ROOT )?(%[\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(?:,|$| )")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Collective(NamedTuple):
    """One collective of a program.

    Attributes:
        kind: one of `KINDS`.
        shapes: the arrays, whole: what a gather results in, what a reduction starts from.
        nbytes: their bytes, for one run of the instruction.
        devices: how many devices take part in one group.
        times: how often it runs in one run of the program: the trip counts of the loops around it.
        scope: the names of the JAX functions and `named_scope`s it comes from.
    """

    kind: str
    shapes: tuple[str, ...]
    nbytes: int
    devices: int
    times: int
    scope: str

    @property
    def sent(self) -> float:
        """Bytes that each device sends over its links in one run of the program, by the ring algorithm."""
        share = (self.devices - 1) / self.devices if self.devices else 1.0
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(self.kind, share)
        return self.nbytes * factor * self.times


def collectives(text: str) -> list[Collective]:
    """The collectives of a program, `compiled.as_text()`, in its order; each once, however it is spread over instructions.

    Compilers write one collective in several ways. A TPU's reduce-scatter is a fusion of an all-reduce and a slice, in a
    computation of its own called `all-reduce-scatter`; an asynchronous collective is repeated, with the same channel, in
    every fusion that carries a step of it; a GPU's is a pair of a start and a done.
    """
    parts = _computations(text)
    times = _times(parts)
    found, seen = [], set()
    for name, lines in parts.items():
        shapes: dict[str, str] = {}
        for line in lines:
            match = INSTRUCTION.match(line)
            if not match:
                continue
            instruction, shape, opcode, operands = match.groups()
            shapes[instruction] = shape
            kind = opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            # Steps of one collective share its channel; so may others, of other arrays, once the compiler has combined some.
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, channel[1], *_SHAPE.findall(shape)) if channel else (name, instruction)
            if key in seen:
                continue
            seen.add(key)
            inputs = [
                s for operand in re.findall(r"%[\w.\-]+", operands) for s in _SHAPE.findall(shapes.get(operand, ""))
            ]
            results = _SHAPE.findall(shape)
            if opcode.endswith("-start") and (opcode != "all-reduce-start" or shape.startswith("((")):
                results = results[len(results) // 2 :]  # (operands, results); of an all-reduce, since jax 0.11 on GPUs
            devices = _group_size(line)
            arrays, scale = results, 1
            if kind == "reduce-scatter":
                arrays = inputs or results
                scale = 1 if inputs or name.startswith("all-reduce-scatter") else devices
            nbytes = sum(map(_nbytes, arrays)) * scale
            scope = re.search(r'op_name="([^"]*)"', line) or _caller_scope(parts, name)
            found.append(
                Collective(
                    kind,
                    tuple(f"{t}[{dims}]" for t, dims in arrays),
                    nbytes,
                    devices,
                    times.get(name, 1),
                    scope[1] if scope else "",
                )
            )
    return found


def _computations(text: str) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.split("\n"):
        match = _COMPUTATION.match(line)
        if match:
            lines = parts.setdefault(match[1], [])
        elif line.startswith("}"):
            lines = []
        else:
            lines.append(line)
    return parts


def _times(parts: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs: the product of the trip counts of the loops it stands in."""
    callers: dict[str, list[tuple[str, int]]] = {}
    for name, lines in parts.items():
        for line in lines:
            called = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                called += [b.strip().lstrip("%") for b in branches.split(",")]
            trips = _trip_count(line, parts) if " while(" in line else 1
            for other in called:
                callers.setdefault(other, []).append((name, trips))

    def times(name: str, depth: int) -> int:
        if depth > 64 or name not in callers:
            return 1
        return max(times(caller, depth + 1) * trips for caller, trips in callers[name])

    return {name: times(name, 0) for name in parts}


def _trip_count(line: str, parts: dict[str, list[str]]) -> int:
    """Of a loop whose condition compares a counter from 0 with a constant; 1 where that is not seen."""
    known = re.search(r'known_trip_count":?\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    body = "\n".join(parts.get(condition[1], [])) if condition else ""
    limits = re.findall(r"= [su]32\[\]\S* constant\((\d+)\)", body)
    return int(limits[0]) if len(limits) == 1 and "direction=LT" in body else 1


def _caller_scope(parts: dict[str, list[str]], name: str) -> re.Match[str] | None:
    for lines in parts.values():
        for line in lines:
            if re.search(rf"(?:calls|to_apply)=%?{re.escape(name)}\b", line):
                return re.search(r'op_name="([^"]*)"', line)
    return None


def _group_size(line: str) -> int:
    """Devices in one replica group, in any of the ways to write groups."""
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes.get(axis, 1) for axis, part in parts)
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return listed[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(iota[2])
    return 0


def _nbytes(shape: tuple[str, str]) -> int:
    dtype, dims = shape
    return math.prod(int(d) for d in dims.split(",") if d) * ITEM_BITS.get(dtype, 0) // 8
