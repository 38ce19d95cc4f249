"""Parameter groups: which chain a parameter gets, by the path of its leaf."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax

from gradtx._core import order, trees
from gradtx._core.chain import chain
from gradtx._core.functions import the_same
from gradtx._core.hyperparameters import stage_field
from gradtx._core.signal import Signal
from gradtx._core.spec import show_static
from gradtx._core.stages import Composite, Leafwise, Stage
from gradtx._core.transform import named


class OfTheTree:
    """A pattern that has to see all parameters at once."""

    def among(self, params: Any) -> Callable[[str, Any], bool]:
        """Whether it chooses the leaf at a path, for these parameters."""
        raise NotImplementedError


Pattern = str | re.Pattern[str] | Callable[[str, Any], bool] | OfTheTree


class freeze(Leafwise):
    r"""Replace the update by zero: $u \leftarrow 0$. Alone it keeps no state and does not read the gradient.

    State:
        none.
    """

    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: Any, slots: Any, signal: Signal) -> Signal:
        return signal.write(jax.numpy.zeros_like(signal.update))


class Groups(Stage):
    """Chains for groups of parameters. Build it with `by_path`.

    Attributes:
        patterns: what chooses the leaves of each group.
        stages: the chain of each group.
    """

    composite: ClassVar[Composite | None] = "groups"
    patterns: tuple[Any, ...]
    stages: tuple[Any, ...] = stage_field()

    def assign(self, params: Any) -> list[int]:
        """The number of the group of every leaf.

        Raises:
            ValueError: a leaf is matched by no pattern; the message lists all such leaves.
        """
        paths = trees.leaf_paths(params)
        if not all(isinstance(p, (str, re.Pattern)) for p in self.patterns):
            patterns = tuple(p.among(params) if isinstance(p, OfTheTree) else p for p in self.patterns)
            return list(_assigned(patterns, tuple(paths), tuple(jax.tree.leaves(params))))
        return list(_assigned_by_name(self.patterns, tuple(paths)))

    def assignment(self, params: Any) -> dict[str, str]:
        """For every leaf, by path, the pattern that it matched."""
        names = [show_pattern(p) for p in self.patterns]
        return dict(zip(trees.leaf_paths(params), (names[i] for i in self.assign(params)), strict=True))

    def table(self, params: Any) -> str:
        """Which leaf goes where, as text: a line a leaf, group after group."""
        lines = []
        leaves, groups = jax.tree.leaves(params), self.assign(params)
        paths = trees.leaf_paths(params)
        width = max(map(len, paths), default=0)
        for i, (pattern, tx) in enumerate(zip(self.patterns, self.stages, strict=True)):
            mine = [n for n, g in enumerate(groups) if g == i]
            size = sum(leaves[n].size for n in mine)
            lines.append(f"{show_pattern(pattern)}: {len(mine)} leaves, {size:,} parameters: {tx._expression()}")
            lines += [f"    {paths[n]:{width}}  {leaves[n].dtype}{list(leaves[n].shape)}" for n in mine]
        return "\n".join(lines)

    def _expression(self) -> str:
        pairs = zip(self.patterns, self.stages, strict=True)
        return f"by_path({{{', '.join(f'{show_pattern(p)}: {tx._expression()}' for p, tx in pairs)}}})"


def by_path(groups: Mapping[Pattern, Any]) -> Groups:
    r"""Give every parameter the chain of the first pattern that its path matches.

    A path is written `encoder/layers/0/bias`, whatever the containers are: dicts, lists, dataclasses, `nnx.State`,
    equinox modules. Each group has a gradient and moments of its own, as in a `scope`; they share one step count. A
    leaf keeps only the state of its own group's chain.

    Args:
        groups: an ordered mapping from patterns to transformations. A pattern is a glob, in which `*` and `?` stay
            within one part of the path and `**` crosses parts (`"**/bias"` also matches `bias`); a compiled regular
            expression, which must match the whole path; or a predicate `(path, leaf) -> bool`. A transformation is
            gradtx's, Optax's, or `"frozen"` (or `freeze()`): no update and no state.

    Returns:
        A transformation. `.table(params)` shows which leaf goes where. In `replace`, a group's pattern is its name:
        `tx.replace({"**/bias.learning_rate": 1e-4})`.

    Raises:
        ValueError: from `init` and `update`, if a leaf is matched by no pattern; end with `"**"` to match the rest.
        TypeError: a pattern or a transformation is none of these.

    Example:
        >>> import gradtx
        >>> tx = gradtx.by_path({"**/bias": gradtx.sgd(0.1), "head/**": "frozen", "**": gradtx.sgd(0.01)})
        >>> tx.assignment({"head": {"w": 0.0}, "body": {"w": 0.0, "bias": 0.0}})
        {'body/bias': '**/bias', 'body/w': '**', 'head/w': 'head/**'}
    """
    if not isinstance(groups, Mapping) or not groups:
        raise TypeError(f"by_path: expected a non-empty dict {{pattern: transformation}}, got {groups!r}")
    stages = []
    for pattern, tx in groups.items():
        if not isinstance(pattern, (str, re.Pattern, OfTheTree)) and not callable(pattern):
            raise TypeError(
                f"by_path: expected a pattern to be a string, a compiled regular expression or a predicate "
                f"(path, leaf) -> bool, got {pattern!r} of type {type(pattern).__name__}"
            )
        if isinstance(tx, str):
            if tx != "frozen":
                raise TypeError(f"by_path: {show_pattern(pattern)}: expected a transformation or 'frozen', got {tx!r}")
            tx = freeze()
        try:
            stage = chain(tx)
        except TypeError as error:
            raise TypeError(f"by_path: {show_pattern(pattern)}: {error}") from error
        stages.append(named(pattern if isinstance(pattern, str) else show_pattern(pattern), stage))
    tx = Groups(tuple(map(the_same, groups)), tuple(stages))
    for stage in stages:
        order.check_estimators(stage)
    return tx


def show_pattern(pattern: Any) -> str:
    """A pattern as one would type it."""
    return repr(pattern) if isinstance(pattern, (str, re.Pattern)) else show_static(pattern)


@functools.lru_cache(maxsize=256)
def _assigned_by_name(patterns: tuple[Any, ...], paths: tuple[str, ...]) -> tuple[int, ...]:
    return _assigned(patterns, paths, (None,) * len(paths))


def _assigned(patterns: tuple[Any, ...], paths: tuple[str, ...], leaves: tuple[Any, ...]) -> tuple[int, ...]:
    tests = [_test(pattern) for pattern in patterns]
    found = []
    for path, leaf in zip(paths, leaves, strict=True):
        found.append(next((i for i, test in enumerate(tests) if test(path, leaf)), -1))
    if -1 in found:
        unmatched = [path for path, group in zip(paths, found, strict=True) if group < 0]
        raise ValueError(
            f"by_path: no pattern of {', '.join(map(show_pattern, patterns))} matches {', '.join(unmatched)}; "
            'a last pattern "**" matches the rest'
        )
    return tuple(found)


def matches(pattern: Any, path: str, leaf: Any) -> bool:
    """Whether a pattern chooses the leaf at a path."""
    return _test(pattern)(path, leaf)


def _test(pattern: Any) -> Callable[[str, Any], bool]:
    if isinstance(pattern, str):
        pattern = _glob(pattern)
    if isinstance(pattern, re.Pattern):
        return lambda path, leaf: pattern.fullmatch(path) is not None

    def predicate(path: str, leaf: Any) -> bool:
        answer = pattern(path, leaf)
        if isinstance(answer, jax.core.Tracer) or not isinstance(answer, bool):
            raise TypeError(
                f"by_path: leaf {path}: expected {show_pattern(pattern)} to say True or False, got {answer!r}"
            )
        return answer

    return predicate


@functools.lru_cache(maxsize=256)
def _glob(pattern: str) -> re.Pattern[str]:
    """`**/` is any number of parts, `**` anything, `*` and `?` what one part has."""
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(t) or re.escape(t) for t in tokens), re.DOTALL)
