"""Functions, as keywords and as hyperparameters, are static: each new one compiles a step anew, and stays in memory with it."""

from __future__ import annotations

import types
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import jax

LIMIT = 32  # from one place in a program; a loop comes by it at once, a program that means it hardly
KEYWORD = "let jax.jit compile a step that takes what changes (a batch) as an argument"
CHOICE = "let what it depends on be its argument: the parameters, or a path and a leaf"

_seen: weakref.WeakKeyDictionary[Any, set[int]] = weakref.WeakKeyDictionary()
_made: weakref.WeakKeyDictionary[Any, list[tuple[weakref.ref[Any], Any]]] = weakref.WeakKeyDictionary()


def watch(keywords: Iterable[tuple[str, Any]], instead: str = KEYWORD) -> None:
    """Warn, once, of a function that is made anew at each call: `value_fn=lambda p: loss(p, batch)` in a loop.

    Args:
        keywords: names and values; those that are Python functions count, by where in the program they were written.
        instead: what to do about it, beside making the function once.
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
                f"compiled a step of its own, which stays in memory. Make the function once, outside of the loop, and {instead}",
                stacklevel=4,
            )


def is_static(value: Any) -> bool:
    """Whether a keyword is none that a program could take as an argument, but one that it is made for."""
    return callable(value) or isinstance(value, str)


def split_keywords(extra: dict[str, Any], owner: str) -> tuple[tuple[tuple[str, Any], ...], dict[str, Any]]:
    """The keywords of a compiled step that are static, sorted, and those that are traced.

    Raises:
        TypeError: one can be neither.
    """
    static = tuple((k, v) for k, v in sorted(extra.items()) if is_static(v))
    for name, value in static:
        if type(value).__hash__ is None:
            raise TypeError(f"{owner}: expected the function {name}= to be hashable, since it is static; got {value!r}")
    watch(static)
    arrays = {k: v for k, v in extra.items() if not is_static(v)}
    for name, tree in arrays.items():
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if not isinstance(x, (bool, int, float, complex)) and not hasattr(x, "dtype"):
                where = name + jax.tree_util.keystr(path)
                raise TypeError(
                    f"{owner}: expected the keyword {name}= to be a function, a string, or a tree of arrays and numbers; "
                    f"{where} is {x!r} of type {type(x).__name__}"
                )
    return static, arrays


def the_same(function: Any) -> Any:
    """One function for all that cannot but do the same: `mask=lambda params: ...` in a loop is then one mask.

    That is certain of functions of the same code, if all that they find around them are the same modules, classes, functions
    of which this is certain too, and constants: defaults that are equal, or variables of an outer function that are the very
    same and have not changed. Any other function is returned as it is. Only weak references to functions are kept.
    """
    if type(function) is not types.FunctionType:
        return function
    around = _surroundings(function)
    if around is None:
        return function
    made = _made.setdefault(function.__code__, [])
    for ref, then in made:
        other = ref()
        if other is not None and then == around:
            return other
    made[:] = [entry for entry in made if entry[0]() is not None][-LIMIT:]
    made.append((weakref.ref(function), around))
    return function


def _surroundings(function: types.FunctionType, depth: int = 0) -> tuple[Any, ...] | None:
    """What a function depends on beside its code and its arguments, to compare; None if that may change."""
    if depth > 4 or function.__dict__:
        return None
    try:
        held = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a cell that is still empty
        return None
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
    variables = map(id, function.__closure__ or ())  # equal ones of two calls may part later
    named = [function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__]
    found = [*(_constant(x) or _certain(x, depth) for x in held), *(_certain(x, depth) for x in named)]
    return None if None in found else (id(function.__globals__), *variables, *found)


def _constant(x: Any) -> tuple[Any, ...] | None:
    if type(x) is tuple:
        parts = tuple(map(_constant, x))
        return None if None in parts else (tuple, *parts)
    return (type(x), repr(x)) if x is None or type(x) in (bool, int, float, str, bytes) else None


def _certain(x: Any, depth: int) -> tuple[Any, ...] | None:
    """What a function finds by name and may count on."""
    if isinstance(x, types.FunctionType):
        around = _surroundings(x, depth + 1)
        return None if around is None else (weakref.ref(x), *around)
    if isinstance(x, type):
        return (weakref.ref(x),)
    return (id(x),) if isinstance(x, (types.ModuleType, types.BuiltinFunctionType)) else None


def _names(code: types.CodeType) -> list[str]:
    """The names that code may look up outside of itself, with those of functions written in it."""
    inside = [name for x in code.co_consts if isinstance(x, types.CodeType) for name in _names(x)]
    return sorted({*code.co_names, *inside})
