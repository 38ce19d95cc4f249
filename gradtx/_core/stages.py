"""What a chain is made of: leafwise stages, treewise stages, foreign Optax transformations, and scopes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradtx._core.hyperparameters import Decay, stage_field
from gradtx._core.schedule import Schedule
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.transform import Transform, Wrapper

Composite = Literal["chain", "scope", "groups", "stored"]


class Step(NamedTuple):
    """What a stage may know when it computes its numbers, once a step.

    Attributes:
        count: int32 scalar, the number of completed steps; what schedules are given.
        t: float scalar, `count + 1`, the number of this step.
        memory: the stage's own `"scalar"` slots.
    """

    count: jax.Array  # type: ignore[assignment]
    t: jax.Array
    memory: dict[str, jax.Array]

    def value(self, number: Any) -> jax.Array:
        """A number, decay or schedule as a scalar for this step."""
        if isinstance(number, Decay):
            return 1 - self.complement(number)
        if isinstance(number, Schedule):
            # Schedules mix counts and floats; Optax's are not written for strict promotion.
            with jax.numpy_dtype_promotion("standard"):
                number = number(self.count)
            if not _is_real(number):
                raise ValueError(f"expected the schedule to return a real number, got {number!r}")
        value = jnp.asarray(number)
        if value.ndim:
            raise ValueError(
                f"expected a scalar hyperparameter, got one of shape {value.shape}; "
                "map a population of transforms with jax.vmap"
            )
        return value.astype(self.t.dtype)

    def complement(self, decay: Decay | Schedule) -> jax.Array:
        """`1 - b` of a decay rate, without the cancellation that computing it here would cost."""
        return self.value(decay.complement) if isinstance(decay, Decay) else 1 - self.value(decay)


def _is_real(value: Any) -> bool:
    """Whether this is a number or an array of numbers that are not complex."""
    if isinstance(value, (bool, int, float)):
        return True
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    return hasattr(value, "dtype") and any(jnp.issubdtype(value.dtype, kind) for kind in kinds)


class Stage(Transform):
    """One step of a chain. Alone it acts as a chain of one.

    Attributes:
        ignores_zeros: see `Transform`. A stage that is `randomized` need hold it only along the first axis, where the bits of
            the other elements stay the same. tests/test_padding.py holds every stage to what it declares.
        requires: what must be known when this stage runs: `"first"`, `"second"` (a moment estimated before it in its
            scope), `"param"` (the parameters).
        rounds: whether it decides which value a 16-bit parameter becomes, so that `parameter + update`, rounded, is that
            value. The updates of a chain with such a stage are at least float32, and no stage behind it may write them.
            `s.param_dtype` then is the dtype of the parameter as it is stored.
        composite: how the stages in it are arranged, if it is made of stages; `"stored"`: as a chain whose slots are kept
            by its `rules`.
        turns: whether the update it writes goes against the one that came in, as a learning rate makes it.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    rounds: ClassVar[bool] = False
    composite: ClassVar[Composite | None] = None
    turns: ClassVar[Any] = False

    def init(self, params: Any) -> Any:
        from gradtx._core import start  # a stage alone is a chain of one: the imports against the stream

        return start.init(self, params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        from gradtx._core import run

        return run.update(self, updates, state, params, extra)

    def slots(self) -> tuple[Slot, ...]:
        """The state this stage keeps."""
        return ()

    def scalars(self, step: Step) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Numbers computed once a step, and the new value of each `"scalar"` slot.

        They join the stage's own hyperparameters in the namespace `s` that the other methods receive.
        """
        return {}, {}

    def applies(self, params: Any) -> list[bool] | None:
        """For each leaf of the parameters whether this stage acts on it; None: on all."""
        return None

    def at_leaves(self, params: Any) -> list[Stage] | None:
        """For each leaf of the parameters the leafwise stage, of the same slots, as which this one acts on it; None: as it is."""
        return None


class Leafwise(Stage):
    """A stage that changes each leaf by itself.

    In `accumulate` and `emit`, `self` has no hyperparameters: their values for the step are in `s`, with the results
    of `scalars`. Arrays are float32 (or wider), whatever is stored or passed in.

    Attributes:
        estimates: the moment of the *gradient* that this stage estimates, if it does: `"first"` or `"second"`.
        squares: whether it squares the gradient, which is then kept from overflowing for the whole scope.
        directs: whether only the update's direction counts, of whatever size; sums are then kept from overflowing.
        writes: whether it replaces `update`.
        randomized: whether `s` is to hold `count` and `leaf` (int32 scalars: completed steps, the leaf's index in the
            tree), from which random bits follow.
        recalls: whether `s.old` is to hold, in `emit`, the slots as they were before this step, by name.
        passes_gradient: whether estimators behind it see the gradient that those before it saw.
        looks_ahead: whether its slot `slow` are parameters behind the trained ones, which a caller may hold in an
            `optax.LookaheadParams` himself.
    """

    estimates: ClassVar[Literal["first", "second"] | None] = None
    squares: ClassVar[bool] = False
    directs: ClassVar[bool] = False
    writes: ClassVar[bool] = True
    randomized: ClassVar[bool] = False
    recalls: ClassVar[bool] = False
    passes_gradient: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def check_place(self, before: dict[str, Any]) -> None:
        """Raise if this stage makes no sense behind those before it in its scope; record what it adds.

        Args:
            before: `"first"`, `"second"`: the estimators so far; `"captured"`: the stage that captured the gradient.
        """

    def accumulate(self, s: SimpleNamespace, slots: dict[str, jax.Array], signal: Signal) -> dict[str, jax.Array]:
        """The slots after this step."""
        return slots

    def emit(self, s: SimpleNamespace, slots: dict[str, jax.Array], signal: Signal) -> Signal:
        """The signal after this stage; `slots` are the new ones, as they were stored."""
        return signal


@dataclasses.dataclass(frozen=True)
class Leaves:
    """All leaves that a treewise stage acts on, in the order of the tree; the lists have one entry a leaf.

    Attributes:
        signals: what flows, with `param` set if the stage requires it. Arrays are float32 or wider.
        slots: the stage's arrays for each leaf, by name.
        memory: its `"scalar"` slots.
        indices: the position of each leaf among all leaves of the tree.
        treedef: the structure of the whole tree.
        everything: all parameters, as they came, if the stage requires them; also of leaves it does not act on.
    """

    signals: list[Signal]
    slots: list[dict[str, jax.Array]]
    memory: dict[str, jax.Array]
    indices: tuple[int, ...]
    treedef: Any
    everything: list[Any] | None = None

    def with_updates(self, updates: list[jax.Array]) -> Leaves:
        """The same with other updates."""
        return self.replace(signals=[s.write(u) for s, u in zip(self.signals, updates, strict=True)])

    def replace(self, **changes: Any) -> Leaves:
        """The same with other fields."""
        return dataclasses.replace(self, **changes)


class Treewise(Stage):
    """A stage that needs all leaves at once.

    Override `update_tree` for what only changes the updates, or `update_leaves` for what keeps slots, needs the
    parameters (`requires = ("param",)`) or more of the signal.

    Attributes:
        keywords: the keywords of `update` that it needs; `s` holds them by name. Arrays are traced, functions static.
        reads: whether it reads more of the signals than their updates.
        takes_apart: whether it reads `signal.product`, where the stage right before it scaled the update.
    """

    keywords: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[bool] = False
    takes_apart: ClassVar[bool] = False

    def update_tree(self, s: SimpleNamespace, updates: list[jax.Array]) -> list[jax.Array]:
        """The new updates, in the order of the old."""
        raise NotImplementedError

    def update_leaves(self, s: SimpleNamespace, leaves: Leaves) -> Leaves:
        """The leaves after this stage: with new signals, slots and memory."""
        updates = [signal.update for signal in leaves.signals]
        new = self.update_tree(s, updates)
        if [jnp.shape(u) for u in new] != [u.shape for u in updates]:
            raise ValueError(
                f"{type(self).__name__}.update_tree: expected updates of shapes {[u.shape for u in updates]}, "
                f"got {[jnp.shape(u) for u in new]}"
            )
        return leaves.with_updates(new)


class Opaque(Stage):
    """A stage with an `init` and `update` of its own, which the chain calls with trees.

    Attributes:
        transformation: what it calls.
    """


class Wrapped(Opaque):
    """A gradtx transformation around a whole chain (`accumulate_gradients(...)`) as one stage of another."""

    transforms: tuple[Any, ...] = stage_field()

    @property
    def transformation(self) -> Any:
        return self.transforms[0]

    @property
    def turns(self) -> bool:
        return _turns(self.transformation)

    def _expression(self) -> str:
        return repr(self.transforms[0])


def _turns(tx: Any) -> bool:
    """Whether a transformation turns the update, as far as its structure and plain numbers tell."""
    if isinstance(tx, Wrapper):
        return _turns(tx.tx)
    if tx.composite is None:
        return bool(tx.turns)
    if tx.composite == "groups":
        return any(map(_turns, tx.stages))
    return sum(map(_turns, tx.stages)) % 2 == 1


class Foreign(Opaque):
    """An Optax transformation as a stage. Compares by identity: its closures show nothing else."""

    transformation: Any

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"cannot pickle the foreign transformation {self!r}: Optax's are closures without names")

    def _expression(self) -> str:
        update = self.transformation.update
        name = getattr(update, "__qualname__", None)
        return f"{update.__module__.split('.')[0]}.{name.split('.<locals>')[0]}" if name else repr(update)


def rounds_parameters(tx: Any) -> bool:
    """Whether a stage of this transformation, anywhere in it, rounds parameters."""
    parts = (*getattr(tx, "stages", ()), *getattr(tx, "transforms", ()))
    return getattr(tx, "rounds", False) or any(map(rounds_parameters, parts))


def is_foreign(tx: Any) -> bool:
    """Whether this is somebody else's gradient transformation."""
    return not isinstance(tx, Transform) and isinstance(tx, optax.GradientTransformation)


def leaf_slots(stage: Stage) -> tuple[Slot, ...]:
    """The slots that have one array a leaf."""
    return tuple(slot for slot in stage.slots() if slot.role != "scalar")
