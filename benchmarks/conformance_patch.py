"""A pytest plugin that puts gradtx's functions in the place of Optax's of the same name; see conformance.py."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from typing import Any

import optax
import optax.contrib

import gradtx

# The same name for something else, on purpose: docs/coming_from_optax.md says what.
OTHER_MEANING = {
    "Schedule",
    "MuonDimensionNumbers",
    "bias_correction",
    "freeze",
    "inject_hyperparams",
    "normalize",
    "scale_by_rms",
    "trace",
}
# These are Optax's own inside a stage of ours, which would then stand in its own place.
WRAPPED = {"scale_by_backtracking_linesearch", "scale_by_zoom_linesearch"}


def replacements() -> dict[str, tuple[Any, Any]]:
    """Optax's function and gradtx's, by name."""
    found = {}
    for name in {*dir(gradtx), *dir(gradtx.schedules)}:
        if name.startswith("_") or name in OTHER_MEANING | WRAPPED:
            continue
        ours = getattr(gradtx, name, None) or getattr(gradtx.schedules, name)
        theirs = getattr(optax, name, None) or getattr(optax.contrib, name, None)
        if callable(theirs) and callable(ours) and theirs is not ours:
            found[name] = (theirs, ours)
    return found


def patch() -> list[str]:
    """Replace each function in every module of Optax that holds it, tests included."""
    for module in pkgutil.walk_packages(optax.__path__, "optax."):
        if not module.name.endswith("_test") and "experimental" not in module.name:
            importlib.import_module(module.name)
    pairs = replacements()
    ours = {id(theirs): ours for theirs, ours in pairs.values()}
    for theirs, function in pairs.values():
        # A test skips what is not annotated to take a schedule.
        rate = inspect.signature(theirs).parameters.get("learning_rate")
        if rate is not None and inspect.isfunction(function):
            function.__annotations__["learning_rate"] = rate.annotation
    for name, module in list(sys.modules.items()):
        if name == "optax" or name.startswith("optax."):
            for attribute, value in list(vars(module).items()):
                if id(value) in ours:
                    setattr(module, attribute, ours[id(value)])
    return sorted(pairs)


def pytest_configure(config: Any) -> None:
    patch()
