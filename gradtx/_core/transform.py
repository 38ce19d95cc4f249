"""The base of every gradtx transformation: a frozen dataclass, a pytree, and an Optax transformation at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import optax

from gradtx._core import addresses
from gradtx._core.hyperparameters import stage_field
from gradtx._core.spec import Spec


class Transform(Spec, optax.GradientTransformationExtraArgs):
    """A gradient transformation.

    It is an instance of `optax.GradientTransformationExtraArgs`, so everything that takes an Optax transformation
    takes it, and it unpacks into `(init, update)`. It is also a pytree whose leaves are its hyperparameters: give it
    to a jitted function as an argument, map over it, differentiate it.

    Attributes:
        held: where it goes around others, its `transforms`: the fields of its state that hold theirs, in that order.
        ignores_zeros: whether zeros at the end of a leaf, along an axis of more than one element, change nothing else: the
            rest of the leaf and other leaves are as without them, the update of a zero is zero, and the state's arrays are
            longer at their ends, if at all. Operations element by element and norms do; means, matrices, and functions of
            the parameters do not. What a stage does to a leaf says whether `shard_state(pad=True)` may pad it.
    """

    held: ClassVar[tuple[str, ...]] = ()
    ignores_zeros: ClassVar[bool] = False

    # The tuple itself holds nothing: closures in it would tie every jitted step into a reference cycle.
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return cls._blank()

    @classmethod
    def _blank(cls) -> Self:
        return tuple.__new__(cls, (None, None))

    def init(self, params: Any) -> Any:
        """The state before the first step.

        Args:
            params: a tree of floating or complex arrays (or `jax.ShapeDtypeStruct`s); None is "no parameter here".

        Returns:
            A tree of arrays, float32 unless a storage was asked for (float64 for float64 parameters).

        Raises:
            TypeError: a leaf is not an array of a floating or complex dtype.
        """
        raise NotImplementedError

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        """One step.

        Args:
            updates: the gradients, a tree like the parameters.
            state: what `init` or the last `update` returned.
            params: the parameters. Stages that need them raise without.
            **extra: keywords that a stage may ask for (`value=...`); the others are ignored, as in Optax.

        Returns:
            `(updates, state)`: what to add to the parameters, in the dtype that parameter and gradient promote to
            (float32 at least, where a stage rounds 16-bit parameters), and the new state, of the same structure, shapes, dtypes and shardings as the old.
        """
        raise NotImplementedError

    def replace(self, changes: dict[str, Any] | None = None, /, **by_name: Any) -> Self:
        """The same transformation with other hyperparameters; a state made before goes on working.

        Args:
            changes: `{address: value}`, where a name occurs more than once: `"clip.max_delta"`.
            **by_name: new values by name, at any depth: `tx.replace(learning_rate=3e-4)`.

        Raises:
            KeyError: no stage has such a hyperparameter; the message lists those there are.
            ValueError: several have, or the value is out of range.
        """
        return addresses.replace(self, {**(changes or {}), **by_name})

    def _placed_at(self, params: Any) -> Self:
        """The same transformation, knowing where these parameters lie, if that matters to it."""
        return self

    def _step(
        self, apply: Callable[[Any, Any], Any], params: Any, state: Any, grads: Any, extra: dict[str, Any]
    ) -> tuple[Any, Any]:
        """New parameters and state, traced: what `gradtx.step` computes."""
        updates, state = self.update(grads, state, params, **extra)
        return apply(params, updates), state

    def __repr__(self) -> str:
        name = self.__dict__.get("_name")
        return f"named({name!r}, {self._expression()})" if name else self._expression()

    def __iter__(self) -> Iterator[Any]:
        return iter((self.init, self.update))

    def __getitem__(self, index: Any) -> Any:
        return (self.init, self.update)[index]

    def __getnewargs__(self) -> tuple[Any, ...]:
        return ()

    def _replace(
        self, **changes: Any
    ) -> optax.GradientTransformationExtraArgs:  # namedtuple's, as Optax's users know it
        return optax.GradientTransformationExtraArgs(*self)._replace(**changes)


class Wrapper(Transform):
    """A transformation around another, with a state of its own; in a `chain` it is one stage.

    Attributes:
        transforms: what is inside: one transformation, or several.
        transparent: whether its state is that of the one inside, and no field of another.
    """

    held: ClassVar[tuple[str, ...]] = ("inner",)
    transparent: ClassVar[bool] = False

    transforms: tuple[Any, ...] = stage_field()

    def __post_init__(self) -> None:
        super().__post_init__()
        for tx in self.transforms:
            if not isinstance(tx, Transform):
                raise TypeError(
                    f"{type(self).__name__}: expected a gradtx transformation, got {tx!r}; wrap Optax's: chain(tx)"
                )

    @property
    def tx(self) -> Any:
        """The transformation inside; of several the first."""
        return self.transforms[0]


def named(name: str, tx: Any) -> Any:
    """Give a stage a name, by which `replace` and messages address it."""
    if not isinstance(tx, Transform):
        raise TypeError(f"named: expected a gradtx transformation, got {tx!r}; wrap Optax's: gradtx.chain(tx)")
    if not isinstance(name, str) or not name:
        raise TypeError(f"expected a stage's name to be a non-empty string, got {name!r}")
    children, aux = tx._flatten()
    return type(tx)._unflatten((name, aux[1]), children)
