"""One row of the zoo."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Row:
    """One transformation.

    Attributes:
        name: unique, and the pytest id.
        make: builds it; keyword arguments override the defaults below.
        optax: builds Optax's same transformation from the same keywords, or None where it has none.
        arguments: every argument with a value that must make a difference to 5 steps (the sensitivity test).
        base: the keywords of the ordinary instance.
        needs: keyword arguments that an argument's sensitivity presupposes: `{argument: {other: value}}`.
        hidden: arguments that change the state alone, and why.
        no_complex: why complex leaves are not compared with Optax, if they are not.
        shape: of the leaf on which its oracle is tried.
        joint: whether the update of a leaf depends on the other leaves.
        to_parameter: why its updates are right to the last place of a float32 parameter and not to their own, if so.
        steps_of_three: the steps that the optimizer inside has counted after three calls of `update`.
        mixes: whether the elements of a matrix depend on one another, so that gradients of extreme sizes need matrices
            of their own instead of a row each.
        walks: whether some arguments matter only where the parameters have moved since the first step.
        keywords: what every `update` of it is given (conftest.py sees to that).
        noise: why a gradient of zero gives no update of zero, if so.
        dtype: of the parameters where one dtype is enough; not float32 for what leaves float32 parameters alone.
    """

    name: str
    make: Callable[..., Any]
    optax: Callable[..., Any] | None
    arguments: dict[str, Any]
    base: dict[str, Any] = dataclasses.field(default_factory=dict)
    needs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    hidden: dict[str, str] = dataclasses.field(default_factory=dict)
    no_complex: str = ""
    shape: tuple[int, ...] = (6,)
    joint: bool = False
    to_parameter: str = ""
    steps_of_three: int = 3
    mixes: bool = False
    keywords: dict[str, Any] = dataclasses.field(default_factory=dict)
    noise: str = ""
    walks: bool = False
    dtype: Any = jnp.float32

    def build(self, **changes: Any) -> Any:
        """The transformation with some arguments changed."""
        return self.make(**{**self.base, **changes})

    def build_optax(self, **changes: Any) -> Any:
        """Optax's transformation with the same arguments."""
        assert self.optax is not None
        return self.optax(**{**self.base, **changes})


def by_name(path: str, leaf: Any) -> bool:
    return path.endswith("matrix")


def matrices_only(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim == 2, params)
