"""Frozen dataclasses that are pytrees, and that compare, hash, pickle and print by value."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Hashable
from typing import Any, Self, dataclass_transform

import jax
import numpy as np
from jax.tree_util import GetAttrKey

from gradtx._core.functions import the_same
from gradtx._core.hyperparameters import Field, decay_field, leaf_field, number_field, stage_field

_KIND = "gradtx"  # the metadata key under which a dataclass field says what it holds


def kind_of(field: dataclasses.Field[Any]) -> Field | None:
    """The declaration of a field that holds pytree children, or None for a static field."""
    return field.metadata.get(_KIND)


def fields_of(spec: Any) -> tuple[dataclasses.Field[Any], ...]:
    """The fields of a spec or of its class (which become dataclasses where a type checker does not see it)."""
    return dataclasses.fields(spec)


@dataclass_transform(
    frozen_default=True, field_specifiers=(number_field, decay_field, leaf_field, stage_field, dataclasses.field)
)
class Spec:
    """A value made of numbers (pytree leaves) and choices (static).

    Subclassing makes the class a frozen dataclass and registers it as a pytree. Which fields hold leaves is
    declared on the class, so `tree_unflatten` accepts whatever JAX and its neighbours put there (tracers, None,
    sentinels) without looking at it; values are checked once, when a person builds the spec.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in list(vars(cls).items()):
            if isinstance(value, Field):
                setattr(cls, name, dataclasses.field(default=value.default, metadata={_KIND: value}))
        dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]
        # Without this, `help` and editors would show a tuple's arguments.
        cls.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(default=p.default.default) if isinstance(p.default, Field) else p for p in own]
        )
        jax.tree_util.register_pytree_with_keys(
            cls,
            cls._flatten_with_keys,
            cls._unflatten,
            flatten_func=cls._flatten,
        )

    def __post_init__(self) -> None:
        for field in fields_of(self):
            kind, value = kind_of(field), getattr(self, field.name)
            if kind is not None:
                value = kind.normalize(value, owner=type(self).__name__, name=field.name)
            else:
                value = static_value(value)
            object.__setattr__(self, field.name, value)

    # ---- pytree ----

    @classmethod
    def _split(cls) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the fields that hold children, and of those that are static."""
        if "_split_cache" not in cls.__dict__:
            fields = fields_of(cls)
            dynamic = tuple(f.name for f in fields if kind_of(f) is not None)
            static = tuple(f.name for f in fields if kind_of(f) is None)
            cls._split_cache = (dynamic, static)  # type: ignore[attr-defined]
        return cls._split_cache  # type: ignore[attr-defined]

    def _flatten(self) -> tuple[tuple[Any, ...], tuple[Any, tuple[Any, ...]]]:
        dynamic, static = self._split()
        values = self.__dict__
        # With their types, since 1 == True == 1.0 and equal structures share programs.
        statics = tuple((values[n].__class__, values[n]) for n in static)
        return tuple(values[n] for n in dynamic), (values.get("_name"), statics)

    def _flatten_with_keys(self) -> tuple[tuple[Any, ...], Hashable]:
        children, aux = self._flatten()
        return tuple(zip(map(GetAttrKey, self._split()[0]), children, strict=True)), aux

    @classmethod
    def _blank(cls) -> Self:
        return object.__new__(cls)

    @classmethod
    def _unflatten(cls, aux: Any, children: Any) -> Self:
        self = cls._blank()
        dynamic, static = cls._split()
        name, statics = aux
        values = dict(zip(dynamic, children, strict=True))
        values.update(zip(static, (value for _, value in statics), strict=True))
        if name is not None:
            values["_name"] = name
        self.__dict__.update(values)
        return self

    def _with(self, **changes: Any) -> Self:
        """A copy with fields replaced, checked as if it were built anew."""
        values = {f.name: getattr(self, f.name) for f in fields_of(self)}
        new = type(self)(**{**values, **changes})
        if "_name" in self.__dict__:
            new.__dict__["_name"] = self.__dict__["_name"]
        return new

    def _with_static(self, **changes: Any) -> Self:
        """A copy with other static fields, as they are: for a structure whose numbers are stand-ins."""
        children, (name, statics) = self._flatten()
        pairs = zip(self._split()[1], statics, strict=True)
        new = tuple((changes[n].__class__, changes[n]) if n in changes else pair for n, pair in pairs)
        return type(self)._unflatten((name, new), children)

    def _with_replaced(self, **changes: Any) -> Self:
        """The copy that `replace` makes where what it replaces is in here."""
        return self._with(**changes)

    # ---- value semantics ----

    def _identity(self) -> tuple[Any, tuple[Hashable, ...]]:
        leaves, treedef = jax.tree.flatten(self)
        return treedef, tuple(map(_leaf_identity, leaves))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented if not isinstance(other, Spec) else False
        return self._identity() == other._identity()

    def __ne__(self, other: object) -> bool:
        result = self.__eq__(other)
        return result if result is NotImplemented else not result

    def __hash__(self) -> int:
        treedef, leaves = self._identity()
        return hash((type(self).__qualname__, treedef, leaves))

    def __reduce__(self) -> tuple[Any, ...]:
        children, aux = self._flatten()
        return _unpickle, (type(self), aux, children)

    def __copy__(self) -> Self:
        return self  # nothing in it can change

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __repr__(self) -> str:
        return self._expression()

    def _expression(self) -> str:
        """The expression that builds this."""
        arguments = []
        positional = True
        for field in fields_of(self):
            value = getattr(self, field.name)
            if is_default(value, field.default) and not (positional and kind_of(field)):
                positional = False
                continue
            text = kind.show(value) if (kind := kind_of(field)) else show_static(value)
            arguments.append(text if positional else f"{field.name}={text}")
            positional = False
        return f"{type(self).__name__}({', '.join(arguments)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # IPython would print a tuple
        printer.text(repr(self))


def _unpickle(cls: type[Spec], aux: Any, children: Any) -> Spec:
    return cls._unflatten(aux, children)


def _leaf_identity(leaf: Any) -> Hashable:
    """What makes two leaves equal: a number's value; an array's dtype, shape and bytes; otherwise the object."""
    if isinstance(leaf, (jax.Array, np.ndarray)) and not isinstance(leaf, jax.core.Tracer):
        array = np.asarray(leaf)
        return (str(array.dtype), array.shape, array.tobytes())
    if isinstance(leaf, (bool, int, float, str)):
        return (type(leaf).__name__, leaf)
    return id(leaf)


def is_default(value: Any, default: Any) -> bool:
    """Whether a field holds its default; arrays and schedules never do."""
    value = getattr(value, "value", value)  # a Decay prints as its decay rate
    return isinstance(value, (bool, int, float, str, type(None))) and type(value) is type(default) and value == default


# ---- static values ----


class StaticTree:
    """A pytree of Python values (a mask of booleans, say) that hashes and compares by value."""

    def __init__(self, tree: Any):
        leaves, self._treedef = jax.tree.flatten(tree)
        self.tree = jax.tree.unflatten(self._treedef, leaves)  # a copy: the caller's may change
        self._leaves = tuple((leaf.__class__, leaf) for leaf in leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StaticTree) and (self._treedef, self._leaves) == (other._treedef, other._leaves)

    def __hash__(self) -> int:
        return hash((self._treedef, self._leaves))

    def __repr__(self) -> str:
        return repr(self.tree)

    def __reduce__(self) -> tuple[Any, ...]:
        return StaticTree, (self.tree,)


def static_value(value: Any) -> Hashable:
    """Make a static field's value immutable and hashable: containers become `StaticTree`s, 0-d arrays numbers."""
    if isinstance(value, (np.generic, np.ndarray, jax.Array)) and not isinstance(value, jax.core.Tracer):
        return value.item() if value.ndim == 0 else StaticTree(value.tolist())
    value = the_same(value)
    try:
        hash(value)
    except TypeError:
        return StaticTree(value)
    return value


def show_static(value: Any) -> str:
    if isinstance(value, np.dtype):
        return repr(value.name)
    return getattr(value, "__qualname__", None) or repr(value)
