"""A chain whose slots are kept by codecs."""

from __future__ import annotations

from typing import Any, ClassVar

from gradtx._core import order
from gradtx._core.hyperparameters import stage_field
from gradtx._core.rules import Rules
from gradtx._core.stages import Composite, Stage


class Stored(Stage):
    """A chain whose slots are kept otherwise than in float32. Build it with `with_storage`.

    Attributes:
        stages: the transformation, one.
        rules: which codec keeps which slot.
    """

    composite: ClassVar[Composite | None] = "stored"
    stages: tuple[Any, ...] = stage_field()
    rules: Any = Rules()

    def __post_init__(self) -> None:
        super().__post_init__()
        order.check_estimators(self)

    @property
    def tx(self) -> Any:
        """The transformation itself."""
        return self.stages[0]

    def _expression(self) -> str:
        return f"with_storage({self.tx._expression()}, {self.rules.shown})"
