"""`describe`, `list` and `compare`."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

import gradtx
from gradtx._cli import building
from gradtx._inspect.equations import read

_RATE = {"learning_rate": 1e-3}  # where a comparison does not say one: it is no difference between optimizers


def add(subparsers: Any) -> None:
    """Add the subcommands."""
    describe = subparsers.add_parser(
        "describe",
        help="equations, numbers and state of an optimizer",
        description="Equations, numbers and state of an optimizer.",
        epilog="Its arguments follow its name: describe adamw --learning-rate 1e-3 --weight-decay 0.1",
    )
    describe.add_argument("name")
    describe.set_defaults(run=_describe)
    listing = subparsers.add_parser("list", help="all optimizers and stages", description="All optimizers and stages.")
    listing.set_defaults(run=_list)
    compare = subparsers.add_parser(
        "compare",
        help="in which stages two optimizers differ",
        description="In which stages two optimizers differ. Arguments apply to both: --learning-rate 1e-3",
    )
    compare.add_argument("first")
    compare.add_argument("second")
    compare.set_defaults(run=_compare)


def _describe(given: argparse.Namespace, rest: list[str]) -> int:
    tx = building.build([given.name, *rest], _RATE)
    print(tx, gradtx.describe(tx), sep="\n\n")
    return 0


def _list(given: argparse.Namespace, rest: list[str]) -> int:
    if rest:
        raise ValueError(f"expected no arguments, got {' '.join(rest)}")
    everything = building.optimizers()
    directions = {name: x for name, x in everything.items() if name.startswith("scale_by_")}
    optimizers = {name: x for name, x in everything.items() if name not in directions}
    sections = {"Optimizers": optimizers, "Their directions": directions, "Stages and wrappers": building.stages()}
    for title, table in sections.items():
        print(f"{title}\n")
        width = max(map(len, table))
        for name, make in sorted(table.items()):
            print(f"  {name:{width}}  {read(inspect.getdoc(make) or '').summary}")
        print()
    return 0


def _compare(given: argparse.Namespace, rest: list[str]) -> int:
    first, second = (building.build([name, *rest], _RATE) for name in (given.first, given.second))
    print(f"from {first}\nto   {second}\n")
    print(gradtx.diff(first, second))
    return 0
