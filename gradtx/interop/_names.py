"""Which parameter of a PyTorch optimizer is which leaf, and how its axes lie."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradtx._groups import _test
from gradtx.interop._slots import Layout

Names = Sequence[str] | Mapping[str, int | str]


class Reshape(NamedTuple):
    """A layout that is more than a permutation of axes; both functions take and return a NumPy array.

    Attributes:
        from_torch: PyTorch's array to the leaf's.
        to_torch: the reverse.
    """

    from_torch: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


Axes = Mapping[Any, "tuple[int, ...] | Reshape"]


class Correspondence(NamedTuple):
    """For each leaf of the parameters, in order.

    Attributes:
        ids: the number of PyTorch's parameter.
        titles: what a message calls it.
        reshapes: how its arrays are turned.
    """

    ids: list[int]
    titles: list[str]
    reshapes: list[Reshape]


def correspondence(
    paths: list[str], groups: list[dict[str, Any]], names: Names, axes: Axes | None, leaves: list[Any], caller: str
) -> Correspondence:
    """Check the mapping that the caller gives.

    Raises:
        ValueError: it names a leaf or a parameter that is not there, leaves one out, or names one twice.
    """
    ids = [i for group in groups for i in group["params"]]
    called = [name for group in groups for name in group.get("param_names", [None] * len(group["params"]))]
    title = {i: f"parameter {i}" + (f" ({name!r})" if name else "") for i, name in zip(ids, called, strict=True)}
    by_name = {name: i for i, name in zip(ids, called, strict=True) if name}
    if isinstance(names, str) or not isinstance(names, (Mapping, Sequence)):
        raise TypeError(
            f"{caller}(names=...): expected the leaves' paths in the order of PyTorch's parameters, or "
            f"{{path: number or name}}, got {names!r}"
        )
    if isinstance(names, Mapping):
        table = {path: _number(path, given, by_name, caller) for path, given in names.items()}
    else:
        if len(names) != len(ids) or len(set(names)) != len(names):
            raise ValueError(
                f"{caller}(names=...): expected {len(ids)} different paths, one for each of PyTorch's parameters, got "
                f"{len(names)}: {list(names)}"
            )
        table = dict(zip(names, ids, strict=True))
    for problem, items in (
        ("is no leaf of the parameters, which are " + ", ".join(paths), [p for p in table if p not in paths]),
        ("is a leaf without a parameter of PyTorch's", [p for p in paths if p not in table]),
        ("stands for a parameter that PyTorch does not have", [p for p, i in table.items() if i not in title]),
    ):
        if items:
            raise ValueError(f"{caller}(names=...): {items[0]} {problem}")
    if len(set(table.values())) != len(table) or len(table) != len(ids):
        missing = [title[i] for i in ids if i not in table.values()]
        raise ValueError(
            f"{caller}(names=...): expected a leaf for each of PyTorch's {len(ids)} parameters, got {len(table)} leaves for "
            f"{len(set(table.values()))} of them" + (f"; none for {missing[0]}" if missing else "")
        )
    order = [table[path] for path in paths]
    reshapes = [_reshape(path, leaf, axes or {}, caller) for path, leaf in zip(paths, leaves, strict=True)]
    return Correspondence(order, [title[i] for i in order], reshapes)


def _number(path: str, given: int | str, by_name: dict[str, int], caller: str) -> int:
    if not isinstance(given, str):
        return int(given)
    if not by_name:
        raise ValueError(
            f"{caller}(names=...): {path}: got the name {given!r}, but the state dict has no names; give numbers, or build "
            "PyTorch's optimizer with model.named_parameters()"
        )
    if given not in by_name:
        raise ValueError(f"{caller}(names=...): {path}: no parameter {given!r}; there are {', '.join(by_name)}")
    return by_name[given]


def _reshape(path: str, leaf: Any, axes: Axes, caller: str) -> Reshape:
    for pattern, given in axes.items():
        if not _test(pattern)(path, leaf):
            continue
        if isinstance(given, Reshape):
            return given
        permutation = tuple(given)
        if sorted(permutation) != list(range(np.ndim(leaf))):
            raise ValueError(
                f"{caller}(axes=...): leaf {path}: expected a permutation of its {np.ndim(leaf)} axes, got {permutation}"
            )
        back = tuple(int(i) for i in np.argsort(permutation))
        return Reshape(functools.partial(np.transpose, axes=permutation), functools.partial(np.transpose, axes=back))
    return Reshape(np.asarray, np.asarray)


def turned(corr: Correspondence, layout: Layout, n: int, array: np.ndarray, what: str, caller: str) -> np.ndarray:
    """One of PyTorch's arrays as the leaf has it."""
    try:
        new = corr.reshapes[n].from_torch(array)
    except ValueError as error:
        raise ValueError(_misfit(corr, layout, n, array.shape, what, caller)) from error
    if new.shape != np.shape(layout.leaves[n]):
        raise ValueError(_misfit(corr, layout, n, array.shape, what, caller))
    return new


def _misfit(corr: Correspondence, layout: Layout, n: int, shape: tuple[int, ...], what: str, caller: str) -> str:
    hint = ""
    if len(shape) > 1 and shape != np.shape(layout.leaves[n]) and sorted(shape) == sorted(np.shape(layout.leaves[n])):
        hint = '; PyTorch keeps (out, in) where JAX libraries keep (in, out): axes={"**/kernel": (1, 0)}'
    return (
        f"{caller}: leaf {layout.paths[n]}: expected {what} of shape {np.shape(layout.leaves[n])}, and {corr.titles[n]} has "
        f"{tuple(shape)}{hint}"
    )
