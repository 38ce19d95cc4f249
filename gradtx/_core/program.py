"""The compiled pieces of a step: one program for its scalars, one for each kind of leaf, one for a treewise stage.

All three are module-level jitted functions of a static structure, so equal optimizers share them, an eager update
runs compiled code, and under an outer `jit` a thousand equal leaves are traced once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes
from gradtx._core.hyperparameters import Number
from gradtx._core.order import label
from gradtx._core.plan import Plan, codecs, placed, units_here
from gradtx._core.schedule import Schedule
from gradtx._core.signal import Signal
from gradtx._core.spec import fields_of, kind_of
from gradtx._core.stages import Leafwise, Stage, Step
from gradtx._core.storage import PlacedUnit, number_name
from gradtx._core.store import Store

Scalars = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Numbers:
    """The scalars of some stages for one step.

    What is computed from the step count lies in one vector, so that a leaf program has few arguments, which is what
    tracing a thousand leaves costs. The compiler may not take the vector apart: a leaf then waits for one small
    computation instead of several, and XLA:CPU keeps working leaf by leaf while its data is in the cache (7% of a step
    of 40 leaves). Where there is only one leaf, waiting is all that is left of it, and the compiler may.

    Attributes:
        vector: what is computed once a step, of all stages; None if there is nothing.
        constants: for each stage its plain numbers.
        places: for each stage the names and positions of its scalars in the vector.
    """

    vector: jax.Array | None
    constants: tuple[Scalars, ...]
    places: tuple[tuple[tuple[str, int], ...], ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def pack(cls, constants: list[Scalars], computed: list[Scalars], *, apart: bool) -> Numbers:
        """Put the computed scalars into one vector, of which the compiler may take what it needs if `apart`."""
        flat = [x for group in computed for x in group.values()]
        position = iter(range(len(flat)))
        places = tuple(tuple((name, next(position)) for name in group) for group in computed)
        if not flat:
            return cls(None, tuple(constants), places)
        stacked = jnp.stack([jnp.asarray(x, dtypes.scalar_dtype()) for x in flat])
        return cls(stacked if apart else jax.lax.optimization_barrier(stacked), tuple(constants), places)

    def of(self, stages: tuple[int, ...]) -> Numbers:
        """The numbers of some of the stages."""
        return Numbers(self.vector, tuple(self.constants[i] for i in stages), tuple(self.places[i] for i in stages))

    def read(self, stage: int, dtype: np.dtype) -> SimpleNamespace:
        """The numbers of one stage, by name."""
        values = {k: dtypes.cast(v, dtype) for k, v in self.constants[stage].items()}
        if self.vector is not None:
            values.update({name: dtypes.cast(self.vector[i], dtype) for name, i in self.places[stage]})
        return SimpleNamespace(**values)


@functools.partial(jax.jit, static_argnums=(0, 1))
def step_scalars(
    structure: Any, single: bool, leaves: list[Any], count: jax.Array, memories: tuple[dict[str, jax.Array], ...]
) -> tuple[jax.Array, Numbers, tuple[dict[str, jax.Array], ...]]:
    """Everything that is computed once a step.

    Args:
        structure: the tree structure of the transformation.
        single: whether they are for a single leaf.
        leaves: its hyperparameters.
        count: int32 scalar, the number of completed steps.
        memories: for each stage its `"scalar"` slots.

    Returns:
        The new count, the numbers of each stage, and the new `"scalar"` slots.
    """
    places = placed(jax.tree.unflatten(structure, leaves))
    t = count.astype(dtypes.scalar_dtype()) + 1
    constant: list[Scalars] = []
    computed: list[Scalars] = []
    new_memories = []
    for stage, memory in zip((one.stage for one in places), memories, strict=True):
        step = Step(count, t, memory)
        try:
            fixed = {n: step.value(v) for n, v in _numbers(stage) if not isinstance(v, Schedule)}
            moving = {n: step.value(v) for n, v in _numbers(stage) if isinstance(v, Schedule)}
            derived, new_memory = stage.scalars(step)
            for name, number in derived.items():
                if jnp.ndim(number):
                    raise ValueError(f"scalars: expected a scalar {name!r}, got shape {jnp.shape(number)}")
        except ValueError as error:
            raise ValueError(f"{label(stage)}: {error}") from error
        constant.append(fixed)
        computed.append({**moving, **derived})
        new_memories.append({k: v.astype(memory[k].dtype) for k, v in new_memory.items()})
    for unit in codecs(places):
        before = {key: memories[unit.home][part.name] for key, part in unit.memory}
        rates = tuple({**constant[i], **computed[i]}.get(slot.rate or "") for i, slot in unit.members)
        now = unit.codec.scalars(before, rates) if before else {}
        for key, part in unit.memory:
            computed[unit.home][number_name(part.name, "before")] = before[key]
            computed[unit.home][number_name(part.name, "now")] = now[key]
            new_memories[unit.home][part.name] = now[key].astype(before[key].dtype)
    largest = jnp.iinfo(count.dtype).max
    return (
        jnp.where(count < largest, count + 1, largest),
        Numbers.pack(constant, computed, apart=single),
        tuple(new_memories),
    )


def _numbers(stage: Stage) -> list[tuple[str, Any]]:
    fields = [(f.name, kind_of(f)) for f in fields_of(stage)]
    values = [(name, getattr(stage, name)) for name, kind in fields if isinstance(kind, Number)]
    return [(name, value) for name, value in values if value is not None]


@dataclasses.dataclass(frozen=True)
class LeafKind:
    """The static half of a leaf program: which stages act, and in which dtypes.

    Attributes:
        stages: the stages without their numbers.
        compute: the dtype of the arithmetic.
        out: the dtype of the update that leaves the program.
        param: the dtype of the parameter as it is stored, for stages that round it; else that of the arithmetic.
        last: whether it leaves the chain as well. (No dtype may be None here: NumPy's float64 equals None.)
        keep: whether later stages need more of the signal than its update.
        apart: whether the next stage takes an update that was scaled apart.
        units: the codecs that keep slots of this leaf.
    """

    stages: tuple[Leafwise, ...]
    compute: np.dtype
    out: np.dtype
    param: np.dtype
    last: bool
    keep: bool
    apart: bool = False
    units: tuple[PlacedUnit, ...] = ()

    def passed_on(self, signal: Signal) -> Signal:
        """What the next stages are given."""
        product = signal.product if self.apart else None
        return signal.replace(param=None, product=product) if self.keep else Signal(signal.update, product=product)

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.stages, self.compute, self.out, self.param, self.last, self.keep, self.apart, self.units))

    def __hash__(self) -> int:
        return self._hash


_kinds: dict[LeafKind, LeafKind] = {}


def leaf_kind(
    plan: Plan,
    segment: int,
    active: tuple[int, ...],
    held: tuple[int, ...],
    param: np.dtype | None,
    grad: np.dtype,
    instead: tuple[tuple[int, Stage], ...] = (),
) -> LeafKind:
    """The kind of a leaf, the same object every time (an identity comparison is all that a cache look-up costs).

    Args:
        plan: the chain's.
        segment: which of its runs of stages.
        active: the stages of the run that act on the leaf.
        held: the units that keep slots of it.
        param: the dtype of the parameter, if there is one.
        grad: the dtype of the gradient.
        instead: stages that act on the leaf as others than they are, by number.
    """
    key = (segment, active, held, param, grad, instead)
    if key not in plan.kinds:
        this = plan.segments[segment]
        compute = dtypes.compute_dtype(grad if param is None else param)
        rounded = param if any(plan.skeletons[i].rounds for i in active) else None
        other = dict(instead)
        kind = LeafKind(
            stages=tuple(other.get(i, plan.skeletons[i]) for i in active),
            compute=compute,
            out=out_dtype(param, grad, rounds=plan.rounds) if this.last else compute,
            param=compute if rounded is None else rounded,
            last=this.last,
            keep=this.keep,
            apart=this.apart,
            units=units_here(plan, active, held),
        )
        plan.kinds[key] = _kinds.setdefault(kind, kind)
    return plan.kinds[key]


def out_dtype(param: np.dtype | None, grad: np.dtype, *, rounds: bool) -> np.dtype:
    """The dtype of an update: what parameter and gradient promote to; where parameters are rounded, at least float32."""
    if param is None:
        return grad
    promoted = dtypes.promote(param, grad)
    return dtypes.promote(promoted, dtypes.compute_dtype(param)) if rounds else promoted


@functools.partial(jax.jit, static_argnums=0)
def leaf_program(
    kind: LeafKind,
    scalars: Numbers,
    signal: Signal,
    param: jax.Array | None,
    slots: tuple[dict[str, jax.Array], ...],
    place: dict[str, jax.Array],
) -> tuple[Any, tuple[dict[str, jax.Array], ...]]:
    """One leaf through a run of leafwise stages.

    Adjacent estimators first accumulate, then emit from what was stored: a value that is stored is used as stored,
    so that what a step used and what the next one reads are one array in memory. `place`: for stages that draw random
    numbers the step's `count` and the number of the `leaf`, else empty.
    """
    compute = kind.compute
    real = dtypes.real_dtype(compute)

    numbers = [scalars.read(i, real) for i in range(len(kind.stages))]
    for numbers_of_one in numbers:
        vars(numbers_of_one).update(place, param_dtype=kind.param)
    signal = signal.replace(
        update=dtypes.cast(signal.update, compute), param=None if param is None else dtypes.cast(param, compute)
    )
    store = Store(kind.units, slots, numbers, compute, signal.update.shape, place)
    position = 0
    # Only a complex leaf multiplies real scalars with complex arrays, which strict promotion would refuse.
    strictness = jax.numpy_dtype_promotion("standard") if real != compute else contextlib.nullcontext()
    with strictness:
        while position < len(kind.stages):
            run = [position]
            if kind.stages[position].estimates:
                signal = signal.capture()
                while run[-1] + 1 < len(kind.stages) and kind.stages[run[-1] + 1].estimates:
                    run.append(run[-1] + 1)
            for i in store.with_partners(run):
                stage, old = kind.stages[i], store.before(i)
                if old:
                    with jax.named_scope(type(stage).__name__):
                        new = stage.accumulate(numbers[i], old, signal)
                    check_slots(stage, new, old)
                    store.put(i, new)
            for i in run:
                stage = kind.stages[i]
                if stage.recalls:
                    numbers[i].old = store.before(i)
                with jax.named_scope(type(stage).__name__):
                    emitted = stage.emit(numbers[i], store.now(i), signal)
                _check_emitted(stage, emitted, signal)
                signal = emitted
            position = run[-1] + 1
    if kind.last:
        return dtypes.cast(signal.update, kind.out), store.stored()
    return kind.passed_on(signal), store.stored()


def check_slots(stage: Stage, new: Any, old: dict[str, jax.Array]) -> None:
    if not isinstance(new, dict) or set(new) != set(old):
        got = sorted(new) if isinstance(new, dict) else repr(new)
        raise ValueError(f"{label(stage)}.accumulate: expected the slots {sorted(old)}, got {got}")
    for name, array in old.items():
        if jnp.shape(new[name]) != array.shape:
            raise ValueError(
                f"{label(stage)}.accumulate: slot {name!r}: expected shape {array.shape}, got {jnp.shape(new[name])}"
            )


def _check_emitted(stage: Stage, new: Any, old: Signal) -> None:
    if not isinstance(new, Signal):
        raise TypeError(f"{label(stage)}.emit: expected a Signal (signal.write(update)), got {new!r}")
    if jnp.shape(new.update) != old.update.shape:
        raise ValueError(
            f"{label(stage)}.emit: expected an update of shape {old.update.shape}, got {jnp.shape(new.update)}"
        )
