"""From a transformation's structure to the order of its work: linear stages, cut into leafwise and treewise runs."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax

from gradtx._core import stages as st
from gradtx._core.functions import CHOICE, watch
from gradtx._core.order import Selectors, check_order, check_rounding, label
from gradtx._core.rules import Rules, units_of
from gradtx._core.schedule import Schedule
from gradtx._core.scopes import enter_scope, exit_scope
from gradtx._core.slots import Slot
from gradtx._core.spec import fields_of
from gradtx._core.storage import PlacedUnit, Unit


@dataclasses.dataclass(frozen=True)
class Segment:
    """Adjacent stages that run together.

    Attributes:
        kind: how they run: as one program a leaf, as one program for all leaves, or by Optax.
        indices: which stages of the plan.
        keep: whether a later stage may read more of the signal than its update.
        last: whether the chain ends here.
        apart: whether the next stage takes an update that was scaled here apart.
    """

    kind: Literal["leafwise", "treewise", "foreign"]
    indices: tuple[int, ...]
    keep: bool
    last: bool
    apart: bool = False


@dataclasses.dataclass(frozen=True)
class Placed:
    """A stage and what it stands in: the groups, from the outside in; the rules of storage, from the inside out."""

    stage: st.Stage
    selectors: Selectors
    rules: tuple[Rules, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What `init` and `update` need to know of a structure; made once, and cached.

    `masked` are the stages that may not act on every leaf, and `varied` those that may act on each as another.
    `selectors` says for each stage in which groups it stands: pairs of the `groups` composite and the number of the
    group. `rounds` says whether a stage rounds parameters. `units` are the codecs at work, and `stored` declares for each
    stage all that its state may have: its slots and the parts of codecs. `numeric` is the structure without masks, on
    which the numbers of a step do not depend; `kinds` caches leaf kinds.
    """

    stages: tuple[st.Stage, ...]
    skeletons: tuple[st.Stage, ...]
    segments: tuple[Segment, ...]
    clamp: str
    masked: tuple[int, ...]
    varied: tuple[int, ...]
    selectors: tuple[Selectors, ...]
    needs_params: tuple[str, ...]
    keeps_moments: tuple[int, ...]
    units: tuple[Unit, ...]
    stored: tuple[tuple[Slot, ...], ...]
    rounds: bool
    numeric: Any
    kinds: dict[Any, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def slot_names(self) -> tuple[frozenset[str], ...]:
        """For each stage the names in its state."""
        return tuple(frozenset(slot.name for slot in stored) for stored in self.stored)

    @functools.cached_property
    def coded(self) -> frozenset[tuple[int, str]]:
        """What a codec may keep: the number of the stage, and the name in its state."""
        return frozenset((unit.home, part.name) for unit in self.units for _, part in unit.parts)

    @functools.cached_property
    def memoryless(self) -> bool:
        """Whether nothing here remembers a step, not even how many there were."""
        return not any(
            stored
            or isinstance(stage, st.Opaque)
            or getattr(stage, "randomized", False)
            or type(stage).scalars is not st.Stage.scalars
            or any(isinstance(getattr(stage, field.name), Schedule) for field in fields_of(stage))
            for stage, stored in zip(self.stages, self.stored, strict=True)
        )


def linear(tx: Any) -> list[st.Stage]:
    """The stages of a transformation in the order they run, scopes between markers, group after group."""
    return [one.stage for one in placed(tx)]


def placed(tx: Any, inside: Selectors = (), rules: tuple[Rules, ...] = ()) -> list[Placed]:
    """The same with what each stage stands in."""
    if tx.composite is None:
        return [Placed(tx, inside, rules)]
    if tx.composite in ("chain", "stored"):
        rules = (tx.rules, *rules) if tx.composite == "stored" else rules
        return [one for part in tx.stages for one in placed(part, inside, rules)]
    if tx.composite == "scope":
        return _scoped(tx.stages, inside, rules)
    return [one for i, part in enumerate(tx.stages) for one in _scoped((part,), (*inside, (tx, i)), rules)]


def _scoped(stages: Any, inside: Selectors, rules: tuple[Rules, ...]) -> list[Placed]:
    flat = [one for part in stages for one in placed(part, inside, rules)]
    enter = enter_scope(_use(stages))
    return [Placed(enter, inside, ()), *flat, Placed(exit_scope(), inside, ())]


def codecs(places: list[Placed]) -> tuple[Unit, ...]:
    """The codecs at work in a chain of these stages."""
    if not any(one.rules for one in places):
        return ()
    return units_of([one.stage for one in places], [one.rules for one in places])


def _use(stages: Any) -> str:
    """What the stages of this scope do with its gradient that must not overflow: `"squares"` before `"sums"`."""
    uses = [
        _use(stage.stages)
        if stage.composite in ("chain", "stored")
        else "squares" * getattr(stage, "squares", False) or "sums" * getattr(stage, "directs", False)
        for stage in stages
    ]
    return "squares" if "squares" in uses else "sums" if "sums" in uses else ""


@functools.lru_cache(maxsize=256)
def plan_for(treedef: Any) -> Plan:
    """The plan of every transformation with this structure."""
    tx = jax.tree.unflatten(treedef, [None] * treedef.num_leaves)
    places = placed(tx)
    stages = tuple(one.stage for one in places)
    watch((("mask", s.mask) for s in stages if callable(getattr(s, "mask", None))), CHOICE)
    selectors = tuple(one.selectors for one in places)
    check_order(stages)
    check_rounding(stages, selectors)
    units = codecs(places)
    return Plan(
        stages=stages,
        skeletons=tuple(map(skeleton, stages)),
        segments=tuple(_segments(stages)),
        clamp=_use((tx,)),
        masked=tuple(i for i, s in enumerate(stages) if selectors[i] or type(s).applies is not st.Stage.applies),
        varied=tuple(i for i, s in enumerate(stages) if type(s).at_leaves is not st.Stage.at_leaves),
        selectors=selectors,
        needs_params=tuple(label(s) for s in stages if "param" in s.requires),
        keeps_moments=tuple(i for i, s in enumerate(stages) if st.leaf_slots(s)),
        units=units,
        stored=tuple(_stored(i, stage, units) for i, stage in enumerate(stages)),
        rounds=any(map(st.rounds_parameters, stages)),
        numeric=jax.tree.structure(_without_masks(jax.tree.unflatten(treedef, [0.0] * treedef.num_leaves))),
    )


def _stored(index: int, stage: st.Stage, units: tuple[Unit, ...]) -> tuple[Slot, ...]:
    """All that the state of a stage may have. A codec's part may bear the name of the slot it keeps."""
    own = {slot.name: slot for slot in stage.slots()}
    for unit in units:
        if unit.home == index:
            for _, part in unit.parts:
                own.setdefault(part.name, part)
    return tuple(own.values())


def units_here(plan: Plan, active: tuple[int, ...], held: tuple[int, ...]) -> tuple[PlacedUnit, ...]:
    """The units that keep a leaf, for a program of these stages."""
    position = {stage: i for i, stage in enumerate(active)}
    return tuple(plan.units[n].at(position) for n in held)


def _without_masks(tx: Any) -> Any:
    if tx.composite is not None:
        names = tx._split()[0]
        return type(tx)._unflatten(tx._flatten()[1], tuple(tuple(map(_without_masks, getattr(tx, n))) for n in names))
    return tx._with_static(mask=None) if "mask" in tx._split()[1] else tx


def skeleton(stage: st.Stage) -> st.Stage:
    """A stage without numbers, name and mask: all that a leaf program depends on."""
    children, (_, statics) = _without_masks(stage)._flatten()
    return type(stage)._unflatten((None, statics), (None,) * len(children))


@functools.lru_cache(maxsize=32)
def one_by_one(treedef: Any) -> Plan:
    """The same plan with a segment for each stage, for whoever looks between them; estimators side by side stay together,
    and stages that one codec keeps.
    """
    plan = plan_for(treedef)
    joined = [getattr(s, "estimates", None) is not None for s in plan.stages]
    spans = [[i for i, _ in unit.members] for unit in plan.units]
    together = {k for members in spans for k in range(min(members) + 1, max(members) + 1)}
    together |= {i for i in range(1, len(joined)) if joined[i] and joined[i - 1]}
    segments = []
    for segment in plan.segments:
        runs: list[list[int]] = []
        for i in segment.indices:
            if runs and i in together:
                runs[-1].append(i)
            else:
                runs.append([i])
        for run in runs:
            last = segment.last and run is runs[-1]
            apart = segment.apart and run is runs[-1]
            segments.append(Segment(segment.kind, tuple(run), segment.keep or not last, last, apart))
    return dataclasses.replace(plan, segments=tuple(segments), kinds={})


def _segments(stages: tuple[st.Stage, ...]) -> list[Segment]:
    def kind(stage: st.Stage) -> Literal["leafwise", "treewise", "foreign"]:
        if isinstance(stage, st.Opaque):
            return "foreign"
        return "treewise" if isinstance(stage, st.Treewise) else "leafwise"

    runs: list[tuple[Any, list[int]]] = []
    for i, stage in enumerate(stages):
        if runs and kind(stage) == "leafwise" == runs[-1][0]:
            runs[-1][1].append(i)
        else:
            runs.append((kind(stage), [i]))
    segments = []
    for n, (what, indices) in enumerate(runs):
        keep = any(
            later == "leafwise" or any(getattr(stages[i], "reads", False) for i in those)
            for later, those in runs[n + 1 :]
        )
        apart = any(getattr(stages[i], "takes_apart", False) for _, those in runs[n + 1 : n + 2] for i in those)
        segments.append(Segment(what, tuple(indices), keep, n == len(runs) - 1, apart))
    return segments
