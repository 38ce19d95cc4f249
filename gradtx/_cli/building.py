"""An optimizer from words: its name, and `--argument value` for each of its arguments."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable
from typing import Any

import gradtx


def optimizers() -> dict[str, Callable[..., Any]]:
    """The optimizers by name."""
    return _defined_in("gradtx._optimizers.")


def stages() -> dict[str, Callable[..., Any]]:
    """The primitives and wrappers by name: what is a transformation, or builds one."""
    found = {**_defined_in("gradtx._primitives."), **_defined_in("gradtx._wrappers.")}
    return {name: x for name, x in found.items() if _builds_a_transformation(x)}


def _defined_in(package: str) -> dict[str, Callable[..., Any]]:
    return {
        name: x for name, x in vars(gradtx).items() if callable(x) and getattr(x, "__module__", "").startswith(package)
    }


def _builds_a_transformation(x: Any) -> bool:
    if inspect.isclass(x):
        return issubclass(x, gradtx.Transform)
    returned = inspect.signature(x).return_annotation
    module = inspect.getmodule(x)
    kind = getattr(module, returned, None) if isinstance(returned, str) else returned
    return inspect.isclass(kind) and issubclass(kind, gradtx.Transform)


def build(words: list[str], optional: dict[str, Any] | None = None) -> Any:
    """The transformation that words describe: `["adamw", "--learning-rate", "1e-3"]`.

    Args:
        words: its name, and pairs of `--argument` and value. A value is a Python literal, a word, or a call of a schedule:
            `cosine_decay_schedule(1e-3, 100)`.
        optional: values for required arguments that are not given, by name.

    Raises:
        ValueError: there is no such optimizer or argument, a value is missing, or does not fit.
    """
    name, *rest = words
    table = {**optimizers(), **stages()}
    if name not in table:
        near = difflib.get_close_matches(name, list(table), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"no optimizer {name!r}; {hint}`list` shows them all")
    make = table[name]
    parameters = inspect.signature(make).parameters
    given: dict[str, Any] = {}
    while rest:
        word = rest.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if not word.startswith("--") or key not in parameters:
            expected = ", ".join(f"--{p.replace('_', '-')}" for p in parameters) or "no arguments"
            raise ValueError(f"{name} has no argument {word!r}; it has {expected}")
        if not equals:
            if not rest:
                raise ValueError(f"{name}: a value is missing behind {word}")
            value = rest.pop(0)
        given[key] = read_value(value)
    for key, value in (optional or {}).items():
        if key in parameters and parameters[key].default is inspect.Parameter.empty:
            given.setdefault(key, value)
    missing = [
        k for k, p in parameters.items() if p.default is p.empty and k not in given and p.kind != p.VAR_POSITIONAL
    ]
    if missing:
        raise ValueError(f"{name} needs --{missing[0].replace('_', '-')}")
    return make(**given)


def read_value(text: str) -> Any:
    """A literal, a word, or a call of something in `gradtx.schedules`."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return text
    if not isinstance(tree, ast.Call):
        return text
    if not isinstance(tree.func, ast.Name) or not hasattr(gradtx.schedules, tree.func.id):
        known = ", ".join(sorted(k for k, x in vars(gradtx.schedules).items() if inspect.isclass(x)))
        raise ValueError(f"no schedule {text!r}; there are {known}")
    values = [read_value(ast.unparse(x)) for x in tree.args]
    named = {k.arg: read_value(ast.unparse(k.value)) for k in tree.keywords if k.arg}
    return getattr(gradtx.schedules, tree.func.id)(*values, **named)
