"""`with_storage`: any chain, with its slots kept in fewer bytes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from gradtx import storage as codecs
from gradtx._core import plan
from gradtx._core.chain import flat
from gradtx._core.rules import MOMENTS, PARAMETER, Rules
from gradtx._core.slots import Slot
from gradtx._core.stages import Opaque, Stage, Wrapped
from gradtx._core.storage import Codec
from gradtx._core.stored import Stored
from gradtx._core.transform import Transform


def with_storage(tx: Any, storage: Any = None, /, *, min_size: int | None = None, **by_slot: Any) -> Any:
    """The same optimizer with its state in fewer bytes.

    The arithmetic stays float32: a slot is decoded, used, and encoded. A value that a step stores is used as it was
    stored, so what is lost is lost once.

    Args:
        tx: a gradtx transformation, chains, groups and wrappers alike.
        storage: what holds for all running averages that `by_slot` does not name: a preset, or a codec.

            - `"float32"`: as they are.
            - `"half"`: 2 bytes a running average. The two moments of one scope in one 32-bit word (`storage.packed32`,
              4 bytes for Adam), any other average as a 16-bit logarithm (`storage.log16`).
            - `"quarter"`: the two moments of one scope in one 16-bit word (`storage.packed16`, 2 bytes for Adam), any
              other average as in `"half"`.

            Copies of parameters, accumulated gradients and whatever is no running average stay as they are.
        min_size: leaves with fewer elements stay float32; None: 4096.
        **by_slot: `slot=codec`, by the name of a slot (`mu`, `nu`, `trace`, ...), `moments` for `mu` and `nu` of one scope
            together, or `parameter` for every slot that mirrors its parameter. A codec is one of `gradtx.storage`, or the
            name of one: `"bfloat16"`; `"float32"` leaves the slot alone.

    Returns:
        A transformation of the same arithmetic. Its state differs; `gradtx.slots(tx, state)` shows both alike.

    Raises:
        TypeError: `tx` is not a gradtx transformation, or a codec is none. From `init`: a slot that its codec cannot hold
            (complex, float64, integers), with the path of the leaf.
        ValueError: no stage has a slot of such a name (the message lists those there are), two names speak of one slot, or
            `tx` has a storage already: one inside goes before one around it, and `without_storage` takes it back.
    """
    if not isinstance(tx, Transform):
        raise TypeError(f"with_storage: expected a gradtx transformation, got {tx!r}; wrap Optax's: gradtx.chain(tx)")
    names = {slot.name for slot in _slots(tx)}
    if isinstance(storage, Mapping):
        by_slot, storage = {**storage, **by_slot}, None
    for name in by_slot:
        if not isinstance(name, str):
            raise TypeError(f"with_storage: expected the name of a slot, got {name!r}")
        if name in ("mu", "nu") and MOMENTS in by_slot:
            raise ValueError(f"with_storage: {MOMENTS}= and {name}= both speak of {name}: expected one of them")
        if name == PARAMETER and not any(slot.role == "parameter" for slot in _slots(tx)):
            raise ValueError(f"with_storage: no slot of {tx!r} mirrors its parameter")
        if name not in names and name not in (MOMENTS, PARAMETER):
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"with_storage: no slot {name!r} in {tx!r}; it has {', '.join(sorted(names)) or 'none'}{hint}"
            )
    by_name = [(name, _codec(value, min_size, name)) for name, value in by_slot.items()]
    shown = [f"{name}={codec!r}" if codec else f"{name}='float32'" for name, codec in by_name]
    averages = None
    if isinstance(storage, str) and storage in PRESETS:
        pair, averages = (codec and _sized(codec, min_size) for codec in PRESETS[storage])
        if MOMENTS not in by_slot and not {"mu", "nu"} & set(by_slot):
            by_name.append((MOMENTS, pair))
        shown = [repr(storage), *([f"min_size={min_size}"] if min_size is not None else []), *shown]
    elif storage is not None:
        averages = _codec(storage, min_size, "storage")
        shown = [repr(averages) if averages else "'float32'", *shown]
    rules = Rules(tuple((n, c) for n, c in by_name), averages, ", ".join(shown) or "'float32'")
    if isinstance(tx, Stored) and tx.rules != rules:
        raise ValueError(
            f"with_storage: {tx!r} has a storage already, which goes before one around it: with_storage(without_storage(tx), "
            "...) takes its place"
        )
    new = _rewritten(tx, rules)
    if by_slot.get(MOMENTS) is not None and dict(by_name)[MOMENTS] is not None and not _has_pair(new):
        raise ValueError(f"with_storage({MOMENTS}=...): no scope of {tx!r} has a mu and a nu that can be kept together")
    return new


PRESETS: dict[str, tuple[Codec | None, Codec | None]] = {
    "float32": (None, None),
    "half": (codecs.packed32(), codecs.log16()),
    "quarter": (codecs.packed16(), codecs.log16()),
}
"""For each preset the codec of two moments together and that of any other average."""


def stored(tx: Any, storage: Any) -> Any:
    """What an optimizer's `storage=` does: `with_storage`, or nothing if there is none."""
    return tx if storage is None else with_storage(tx, storage)


def _codec(value: Any, min_size: int | None, name: str) -> Codec | None:
    if value is None or (isinstance(value, str) and value == "float32"):
        return None
    known = {n: c for n, c in vars(codecs).items() if isinstance(c, type) and issubclass(c, Codec) and c is not Codec}
    if isinstance(value, str) and value in known:
        value = known[value]()
    if isinstance(value, type) and issubclass(value, Codec):
        value = value()
    if not isinstance(value, Codec):
        presets = f", or of all slots {', '.join(map(repr, PRESETS))}" if name == "storage" else ""
        raise TypeError(
            f"with_storage({name}=...): expected a codec of gradtx.storage, 'float32' or one of {', '.join(sorted(known))}"
            f"{presets}; got {value!r}"
        )
    expected = 2 if name == MOMENTS else 1
    if value.covers != expected:
        raise TypeError(
            f"with_storage({name}=...): expected a codec for {expected} slot{'s' * (expected > 1)}, got {value!r}, which keeps "
            f"{value.covers} together" + (f": give it as {MOMENTS}=" if value.covers == 2 else "")
        )
    return _sized(value, min_size)


def _sized(codec: Codec, min_size: int | None) -> Codec:
    return codec if min_size is None else codec._with(min_size=min_size)


def _rewritten(tx: Any, rules: Rules) -> Any:
    """The rules around every chain: also of those inside wrappers, which keep a state of their own."""
    if isinstance(tx, Stored) and tx.rules == rules:
        return tx
    if not isinstance(tx, Stage):
        return tx._with(transforms=tuple(_rewritten(part, rules) for part in tx.transforms))
    return Stored((_wrapped_rewritten(tx, rules),), rules)


def _wrapped_rewritten(tx: Any, rules: Rules) -> Any:
    if isinstance(tx, Wrapped):
        return tx._with(transforms=tuple(_rewritten(part, rules) for part in tx.transforms))
    if tx.composite is None:
        return tx
    new = tuple(_wrapped_rewritten(part, rules) for part in tx.stages)
    return tx if all(a is b for a, b in zip(new, tx.stages, strict=True)) else tx._with(stages=new)


def _slots(tx: Any) -> list[Slot]:
    """The slots that leaves have, of all chains in a transformation."""
    if not isinstance(tx, Stage):
        return [slot for part in tx.transforms for slot in _slots(part)]
    found: list[Slot] = []
    for stage in plan.linear(tx):
        if isinstance(stage, Wrapped):
            found += [slot for part in stage.transforms for slot in _slots(part)]
        elif not isinstance(stage, Opaque):
            found += [slot for slot in stage.slots() if slot.role != "scalar"]
    return found


def _has_pair(tx: Any) -> bool:
    """Whether a codec keeps two slots together."""
    if not isinstance(tx, Stage):
        return any(map(_has_pair, tx.transforms))
    places = plan.placed(tx)
    inside = [part for one in places if isinstance(one.stage, Wrapped) for part in one.stage.transforms]
    return any(len(unit.members) > 1 for unit in plan.codecs(places)) or any(map(_has_pair, inside))


def without_storage(tx: Any) -> Any:
    """The same transformation with every slot as it is, in float32."""
    if isinstance(tx, Stored):
        return without_storage(tx.tx)
    if not isinstance(tx, Stage) or isinstance(tx, Wrapped):
        return tx._with(transforms=tuple(map(without_storage, tx.transforms)))
    if tx.composite is None:
        return tx
    new = tuple(map(without_storage, tx.stages))
    if all(a is b for a, b in zip(new, tx.stages, strict=True)):
        return tx
    return tx._with(stages=flat(new) if tx.composite in ("chain", "scope") else new)
