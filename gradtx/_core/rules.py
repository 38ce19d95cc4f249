"""Which codec keeps which slot of a chain."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from gradtx._core import stages as st
from gradtx._core.slots import Slot
from gradtx._core.spec import Spec
from gradtx._core.storage import Codec, Unit

MOMENTS = "moments"
PARAMETER = "parameter"


class Rules(Spec):
    """Which codec keeps which slot.

    Attributes:
        by_name: pairs of a slot's name and a codec, or None for "as it is"; `"moments"` is the pair `mu` and `nu` of one
            scope, and `"parameter"` every slot that mirrors its parameter.
        averages: the codec of running averages that no name speaks of.
        shown: what the user wrote.
        addressed: they are no hyperparameters.
    """

    addressed: ClassVar[bool] = False

    by_name: tuple[tuple[str, Codec | None], ...] = ()
    averages: Codec | None = None
    shown: str = ""

    def _expression(self) -> str:
        return self.shown

    def joint(self) -> tuple[Codec | None] | None:
        """The codec of both moments of a scope, in a tuple; None: these rules say nothing of them together."""
        named = dict(self.by_name)
        return (named[MOMENTS],) if MOMENTS in named else None

    def of(self, slot: Slot) -> tuple[Codec | None] | None:
        """The codec of one slot, in a tuple; None: these rules say nothing of it."""
        if slot.role == "scalar":
            return None
        named = dict(self.by_name)
        if slot.name in named:
            return (named[slot.name],)
        if slot.name in ("mu", "nu") and self.joint() == (None,):
            return (None,)
        if slot.role == "parameter" and slot.dtype_for is None and PARAMETER in named:
            return (named[PARAMETER],)
        if slot.rate is not None and slot.dtype is None and slot.role == "parameter" and self.averages is not None:
            return (self.averages,)
        return None


def units_of(stages: list[st.Stage], rules: list[tuple[Rules, ...]]) -> tuple[Unit, ...]:
    """Which codecs are at work in a chain.

    Args:
        stages: in the order they run, scopes between markers.
        rules: for each stage the rules it stands under, from the inside out.
    """
    slots = [{slot.name: slot for slot in stage.slots()} for stage in stages]
    found: list[tuple[Codec, tuple[tuple[int, Slot], ...]]] = []
    for i, mine in enumerate(rules):
        first = slots[i].get("mu")
        if first is None or not _is_average(first):
            continue
        (joint,) = next((r.joint() or (None,) for r in mine if r.joint() or r.of(first)), (None,))
        if joint is None:
            continue
        partners = (k for k in _within_reach(stages, i) if _is_average(slots[k].get("nu")) and rules[k] == mine)
        partner = next(partners, None)
        if partner is not None:
            found.append((joint, ((i, first), (partner, slots[partner]["nu"]))))
    taken = {(i, slot.name) for _, members in found for i, slot in members}
    for i, mine in enumerate(rules):
        for name, slot in slots[i].items():
            answer = next((a for r in mine if (a := r.of(slot)) is not None), None)
            if answer is not None and answer[0] is not None and (i, name) not in taken:
                found.append((answer[0], ((i, slot),)))
    return tuple(_unit(codec, members, number) for number, (codec, members) in enumerate(found))


def _unit(codec: Codec, members: tuple[tuple[int, Slot], ...], number: int) -> Unit:
    slots = tuple(slot for _, slot in members)
    parts = codec.parts(slots)
    for key, part in parts.items():
        if part.dtype is None or (part.dtype == np.float32 and part.name in {slot.name for slot in slots}):
            raise ValueError(
                f"{codec!r}.parts: part {key!r}: expected a dtype, and for float32 a name other than the slot's "
                f"{part.name!r}: leaves that are too small keep the slot itself under that name"
            )
    return Unit(codec, members, tuple(parts.items()), number)


def _is_average(slot: Slot | None) -> bool:
    return slot is not None and slot.role == "parameter" and slot.rate is not None and slot.dtype is None


def _within_reach(stages: list[st.Stage], first: int) -> list[int]:
    """The stages whose moments are known together with those of another: of one scope, and the same gradient."""
    reach = [first]
    if not getattr(stages[first], "estimates", None):
        return reach
    for step in (1, -1):
        i = first + step
        while 0 <= i < len(stages):
            stage = stages[i]
            if not isinstance(stage, st.Leafwise) or not (stage.estimates or stage.passes_gradient):
                break
            if stage.estimates:
                reach.append(i)
            i += step
    return reach
