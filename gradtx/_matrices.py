"""Which parameters are matrices: predicates for `by_path`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from gradtx._core import trees
from gradtx._groups import OfTheTree
from gradtx._groups import _test as matcher
from gradtx._primitives.matrices import AxesOf, Layout, MuonDimensionNumbers, dimension_numbers, is_entry


@dataclasses.dataclass(frozen=True)
class matrices:
    """A predicate for `by_path`: parameters of two axes, but for some paths.

    Attributes:
        but: path patterns, as in `by_path`, of parameters that are none whatever their shape.

    Example:
        >>> import gradtx
        >>> tx = gradtx.by_path({gradtx.matrices(("embed/**",)): gradtx.sgd(0.1), "**": gradtx.adam(1e-3)})
    """

    but: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "but", _patterns(self.but))

    def __call__(self, path: str, leaf: Any) -> bool:
        return len(leaf.shape) == 2 and not _matches(self.but, path, leaf)

    def __repr__(self) -> str:
        return f"matrices({self.but!r})" if self.but else "matrices()"


@dataclasses.dataclass(frozen=True)
class axes_between:
    """A predicate for `by_path`: parameters of some numbers of axes, but for some paths.

    Attributes:
        least: the smallest number.
        most: the largest; None: any.
        but: path patterns of parameters that are none.
    """

    least: int
    most: int | None
    but: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "but", _patterns(self.but))

    def __call__(self, path: str, leaf: Any) -> bool:
        axes = len(leaf.shape)
        return self.least <= axes and (self.most is None or axes <= self.most) and not _matches(self.but, path, leaf)


@dataclasses.dataclass(frozen=True)
class axes_are:
    """A predicate for `by_path`: parameters to which a table assigns these dimension numbers.

    Attributes:
        numbers: the dimension numbers.
        table: pairs of a path pattern and its dimension numbers, or None; the first that matches counts.
    """

    numbers: MuonDimensionNumbers
    table: tuple[tuple[Any, MuonDimensionNumbers | None], ...]

    def __call__(self, path: str, leaf: Any) -> bool:
        for pattern, numbers in self.table:
            if _matches((pattern,), path, leaf):
                return numbers == self.numbers and _has_axes(path, leaf, self.numbers)
        return False


@dataclasses.dataclass(frozen=True)
class axes_named(OfTheTree):
    """A pattern for `by_path`: parameters for which a function of all of them names dimension numbers.

    Attributes:
        numbers: the function.
        but: path patterns of parameters that have none.
    """

    numbers: AxesOf
    but: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "but", _patterns(self.but))

    def among(self, params: Any) -> Callable[[str, Any], bool]:
        found = dict(zip(trees.leaf_paths(params), self.numbers(params), strict=True))

        def predicate(path: str, leaf: Any) -> bool:
            numbers = found[path]
            if numbers is None or _matches(self.but, path, leaf):
                return False
            return _has_axes(path, leaf, numbers)

        return predicate

    def __repr__(self) -> str:
        return f"axes_named({self.numbers!r})"


def _has_axes(path: str, leaf: Any, numbers: MuonDimensionNumbers) -> bool:
    """True; raises if the leaf has no such axes."""
    try:
        Layout(tuple(leaf.shape), numbers)
    except ValueError as error:
        raise ValueError(f"leaf {path}: {error}") from error
    return True


def leaves_with(
    given: Any, but: tuple[Any, ...], where: str = "muon(muon_weight_dimension_numbers=...)"
) -> list[tuple[axes_are, MuonDimensionNumbers]]:
    """For all different dimension numbers in a table or tree of them which leaves have them.

    Args:
        given: a tree of `MuonDimensionNumbers` and None; a dict from path patterns to them is one.
        but: patterns of what has none.
        where: the argument that they were given as, for messages.
    """
    if callable(given):
        raise TypeError(
            f"{where}: expected a dict from path patterns to MuonDimensionNumbers or a tree of them, "
            f"got the function {given!r}; call it on the parameters"
        )
    parts = given.items() if isinstance(given, dict) else [(None, given)]  # JAX would sort the patterns
    flat = [
        (path if key is None else (jax.tree_util.DictKey(key), *path), numbers)
        for key, part in parts
        for path, numbers in jax.tree_util.tree_flatten_with_path(part, is_leaf=is_entry)[0]
    ]
    table: list[tuple[Any, MuonDimensionNumbers | None]] = [(pattern, None) for pattern in _patterns(but)]
    for path, numbers in flat:
        try:
            found = dimension_numbers(numbers)
        except TypeError as error:
            raise TypeError(f"{where}: {trees.path_name(path)}: {error}") from error
        # A pattern given as a key, or the path of a leaf or of a part of the tree with all that is in it.
        name = trees.path_name(path) if path else "**"
        table += [(name, found), (f"{name}/**", found)]
    different = dict.fromkeys(numbers for _, numbers in table if numbers is not None)
    return [(axes_are(numbers, tuple(table)), numbers) for numbers in different]


def _patterns(given: Any) -> tuple[Any, ...]:
    if isinstance(given, str):
        raise TypeError(f"expected a sequence of path patterns, got {given!r}; write ({given!r},)")
    return tuple(given)


def _matches(patterns: tuple[Any, ...], path: str, leaf: Any) -> bool:
    return any(matcher(pattern)(path, leaf) for pattern in patterns)
