"""What a rehearsal found, as data and as text."""

from __future__ import annotations

import dataclasses
from typing import Any

from gradtx._rehearsal.collectives import Collective

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def show_bytes(n: float) -> str:
    """A number of bytes as people read it."""
    for size, unit in _UNITS:
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of the step.

    Attributes:
        name: of the function's parameter.
        bytes: of all its arrays, once.
        device_bytes: of them, of one device.
        host_bytes: of these, what lies in host memory.
    """

    name: str
    bytes: int
    device_bytes: int
    host_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """A step compiled for machines that are not there: what one device holds, needs and sends.

    Attributes:
        target: the topology, or the devices' kind.
        devices: how many there are.
        mesh: the sizes of the mesh's axes, by name.
        capacity: bytes of memory of one device, or None where that is not known.
        arguments: the step's arguments.
        argument_bytes, result_bytes, donated_bytes, temporary_bytes, peak_bytes: of one device, as the compiler says;
            `donated_bytes` of the results lie where arguments did. All but the first are 0 where `error` is set.
        host_bytes: what crosses between a device and its host's memory in a step: arguments that lie there, and results.
        optimizer_bytes: what the arithmetic of gradtx's part of the step reads from and writes to a device's memory: without
            collectives, and without what stays on the chip.
        collectives: in the program's order.
        surprises: what a person planning this run would want to know, in words.
        seconds: that compiling took.
        error: what the compiler said where there is no program, as when it does not fit.
        text: the compiled program.
    """

    target: str
    devices: int
    mesh: dict[str, int]
    capacity: int | None
    arguments: tuple[Argument, ...]
    argument_bytes: int
    result_bytes: int
    donated_bytes: int
    temporary_bytes: int
    peak_bytes: int
    host_bytes: int
    optimizer_bytes: float
    collectives: tuple[Collective, ...]
    surprises: tuple[str, ...]
    seconds: float
    error: str | None = None
    text: str = dataclasses.field(default="", repr=False)

    @property
    def fits(self) -> bool:
        """Whether there is a program, and its peak is within a device's memory."""
        return self.error is None and (self.capacity is None or self.peak_bytes <= self.capacity)

    @property
    def sent_bytes(self) -> float:
        """Bytes that each device sends in one step, all collectives by the ring algorithm."""
        return sum(c.sent for c in self.collectives)

    def __str__(self) -> str:
        mesh = ", ".join(f"{name}={size}" for name, size in self.mesh.items())
        each = "" if self.capacity is None else f" of {show_bytes(self.capacity)}"
        head = f"{self.target}: {self.devices:,} devices{each}" + (f"; mesh {mesh}" if mesh else "")
        parts = [f"{head}; compiled in {self.seconds:.0f} s", self._memory()]
        if self.error is None:
            parts.append(self._moves())
        parts.append("surprises\n" + "\n".join(f"  - {line}" for line in self.surprises or ["none"]))
        return "\n\n".join(parts)

    def _memory(self) -> str:
        rows: list[tuple[str, ...]] = [("on each device", "")]
        for a in self.arguments:
            there = f", {show_bytes(a.host_bytes)} in host memory" if a.host_bytes else ""
            rows.append((f"  argument {a.name}", f"{show_bytes(a.device_bytes)} of {show_bytes(a.bytes)}{there}"))
        if self.error is not None:
            rows.append(("  all arguments on the device", show_bytes(self.argument_bytes)))
            return f"{_columns(rows)}\n\nno program: {self.error}"
        share = "" if self.capacity is None else f", {self.peak_bytes / self.capacity:.0%} of its memory"
        rows += [
            ("  all arguments on the device", show_bytes(self.argument_bytes)),
            ("  results that are not donated arguments", show_bytes(self.result_bytes - self.donated_bytes)),
            ("  temporary", show_bytes(self.temporary_bytes)),
            ("  peak", show_bytes(self.peak_bytes) + share),
        ]
        if self.optimizer_bytes:
            rows.append(("  read and written by the optimizer", show_bytes(self.optimizer_bytes)))
        if self.host_bytes:
            rows.append(("  to and from host memory in a step", show_bytes(self.host_bytes)))
        return _columns(rows)

    def _moves(self) -> str:
        grouped: dict[Any, int] = {}
        for c in self.collectives:
            grouped[c] = grouped.get(c, 0) + 1
        if not grouped:
            return "no collectives"
        rows: list[tuple[str, ...]] = [("collective", "times", "among", "bytes", "each sends", "arrays", "where")]
        for c, n in sorted(grouped.items(), key=lambda item: -item[0].sent * item[1]):
            arrays = c.shapes[0] if len(c.shapes) == 1 else f"{c.shapes[0]} and {len(c.shapes) - 1} more"
            where = "/".join(p for p in c.scope.split("/") if not p.startswith("jit(")) or c.scope
            rows.append(
                (c.kind, str(n * c.times), str(c.devices), show_bytes(c.nbytes), show_bytes(c.sent * n), arrays, where)
            )
        return f"{_columns(rows)}\n{show_bytes(self.sent_bytes)} sent by each device in a step"


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows)
