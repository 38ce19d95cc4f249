"""The command `python -m gradtx`: one module a subcommand, with `add(subparsers)` and a function that runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gradtx._cli import reading, rehearsing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gradtx", description="Look at optimizers without writing a script."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (reading, rehearsing):
        module.add(subparsers)
    given, rest = parser.parse_known_args(arguments)
    try:
        return given.run(given, rest)
    except (ImportError, TypeError, ValueError, KeyError) as error:
        print(f"{parser.prog} {given.command}: {error.args[0] if error.args else error}", file=sys.stderr)
        return 2
