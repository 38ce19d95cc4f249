"""Functions as keywords are static: each new one compiles a step anew, and stays in memory with it."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from typing import Any

LIMIT = 32  # from one place in a program; a loop comes by it at once, a program that means it hardly

_seen: weakref.WeakKeyDictionary[Any, set[int]] = weakref.WeakKeyDictionary()


def watch(keywords: Iterable[tuple[str, Any]]) -> None:
    """Warn, once, of a function that is made anew at each call: `value_fn=lambda p: loss(p, batch)` in a loop.

    Args:
        keywords: names and values; those that are Python functions count, by where in the program they were written.
    """
    for name, value in keywords:
        code = getattr(value, "__code__", None)
        if code is None:
            continue
        seen = _seen.setdefault(code, set())
        if len(seen) >= LIMIT or id(value) in seen:
            continue
        seen.add(id(value))
        if len(seen) == LIMIT:
            warnings.warn(
                f"{name}= was {LIMIT} different functions from {code.co_filename}:{code.co_firstlineno}, and each of them "
                "compiled a step of its own, which stays in memory. Make the function once, outside of the loop, and let "
                "jax.jit compile a step that takes what changes (a batch) as an argument",
                stacklevel=4,
            )
