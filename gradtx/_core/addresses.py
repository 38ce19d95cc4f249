"""Every hyperparameter has an address: its name, or `stage.name` where the name alone is not enough."""

from __future__ import annotations

import difflib
from collections import Counter
from typing import Any, NamedTuple

from gradtx._core.hyperparameters import Stages
from gradtx._core.spec import Spec, fields_of, kind_of


class Place(NamedTuple):
    """Where a hyperparameter stands: the way down from the root, the owner's label, the field."""

    way: tuple[tuple[str, int | None], ...]
    owner: str
    field: str
    value: Any
    numeric: bool
    in_schedule: bool = False


def places(root: Spec) -> list[Place]:
    """Every field of every spec below `root`, its stages in their order."""
    found: list[Place] = []

    def visit(spec: Spec, way: tuple[tuple[str, int | None], ...], owner: str, in_schedule: bool) -> None:
        given = spec.__dict__.get("_name")
        for field in fields_of(spec):
            value, kind = getattr(spec, field.name), kind_of(field)
            if isinstance(kind, Stages):
                for i, stage in enumerate(value):
                    name = stage.__dict__.get("_name") or given or type(stage).__name__
                    visit(stage, (*way, (field.name, i)), name, in_schedule)
                continue
            if not getattr(value, "addressed", True):
                continue
            here = (*way, (field.name, None))
            found.append(Place(here, owner, field.name, value, kind is not None, in_schedule))
            if isinstance(value, Spec):
                visit(value, here, field.name, True)

    visit(root, (), root.__dict__.get("_name") or type(root).__name__, False)
    return found


def addresses(root: Spec, *, numeric_only: bool = False) -> dict[str, Place]:
    """The shortest unique address of every hyperparameter."""
    all_places = places(root)
    names = Counter(p.field for p in all_places)
    owned = Counter((p.owner, p.field) for p in all_places)
    seen: Counter[tuple[str, str]] = Counter()
    result = {}
    for place in all_places:
        key = (place.owner, place.field)
        if names[place.field] == 1:
            address = place.field
        elif owned[key] == 1:
            address = f"{place.owner}.{place.field}"
        else:
            address = f"{place.owner}[{seen[key]}].{place.field}"
        seen[key] += 1
        if place.numeric or not numeric_only:
            result[address] = place
    return result


def find(root: Spec, address: str) -> Place:
    """The one place an address means; it may be longer than needed."""
    table = addresses(root)
    if address in table:
        return table[address]
    everywhere = places(root)
    matching = [p for p in everywhere if address in (p.field, f"{p.owner}.{p.field}")]
    if len(matching) == 1:
        return matching[0]
    if matching:
        candidates = [a for a, p in table.items() if p in matching]
        raise ValueError(f"{address!r} occurs {len(matching)} times in {root!r}; say which: {', '.join(candidates)}")
    near = difflib.get_close_matches(address, list(table), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise KeyError(f"no hyperparameter {address!r} in {root!r}; it has {', '.join(sorted(table)) or 'none'}.{hint}")


def replace(root: Any, changes: dict[str, Any]) -> Any:
    """`root` with other values at the given addresses."""
    for place, value in [(find(root, address), value) for address, value in changes.items()]:
        root = _put(root, place.way, value)
    return root


def _put(spec: Spec, way: tuple[tuple[str, int | None], ...], value: Any, *, checked: bool = True) -> Spec:
    (name, index), rest = way[0], way[1:]
    if index is None:
        new = _put(getattr(spec, name), rest, value, checked=checked) if rest else value
    else:
        stages = getattr(spec, name)
        new = (*stages[:index], _put(stages[index], rest, value, checked=checked), *stages[index + 1 :])
    if checked:
        return spec._with_replaced(**{name: new})
    children, aux = spec._flatten()
    names = spec._split()[0]
    return spec._unflatten(aux, [new if n == name else child for n, child in zip(names, children, strict=True)])


def put_leaf(spec: Spec, way: tuple[tuple[str, int | None], ...], value: Any) -> Spec:
    """`spec` with one hyperparameter replaced and nothing checked: for values that come out of a state."""
    return _put(spec, way, value, checked=False)
