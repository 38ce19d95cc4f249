"""Smaller steps where the loss has stopped falling."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.dtypes import scalar_dtype
from gradtx._core.hyperparameters import number_field
from gradtx._core.slots import Slot
from gradtx._core.stages import Leaves, Treewise

_COUNTS = ("reductions", "plateau_count", "cooldown_count", "gathered", "evaluations")


class reduce_on_plateau(Treewise):
    r"""Multiply the update by a factor that shrinks each time a value (the loss) has stopped falling.

    $$u \leftarrow \max(\text{factor}^n, s_{\min}) u, \qquad n \text{ the number of plateaus so far}$$

    A mean of `accumulation_size` values is an improvement if it is less than $(1 - \text{rtol}) v_{\text{best}} - \text{atol}$;
    `patience` of them in a row without one are a plateau. The state is float32 and int32, whatever the parameters are (Optax's
    best value of bfloat16 parameters has 3 digits), and the numbers are data: setting them, in `tx` or with
    `inject_hyperparams` in the state, does not trace again.

    Args:
        factor: in (0, 1), by which the steps shrink.
        patience: how many values without an improvement are a plateau.
        rtol: the relative improvement that counts, in [0, 1].
        atol: the absolute improvement that counts, >= 0; not both 0.
        cooldown: how many values are not looked at after a reduction.
        accumulation_size: how many values make one: 1 for a validation loss, more for the loss of a batch.
        min_scale: the smallest factor of the update, >= 0.

    State:
        `best_value`, `avg_value`: float32 scalars. `reductions` ($n$), `plateau_count`, `cooldown_count`, `gathered`,
        `evaluations`: int32 scalars.

    Raises:
        ValueError: a number is out of its range; from `update`, if the value is no scalar.
        TypeError: from `update`, if the keyword `value=` is missing.
    """

    factor: Any = number_field(default=0.1, minimum=0.0)
    patience: Any = number_field(default=10, minimum=0.0)
    rtol: Any = number_field(default=1e-4, minimum=0.0)
    atol: Any = number_field(default=0.0, minimum=0.0)
    cooldown: Any = number_field(default=0, minimum=0.0)
    accumulation_size: Any = number_field(default=1, minimum=1.0)
    min_scale: Any = number_field(default=0.0, minimum=0.0)

    keywords: ClassVar[tuple[str, ...]] = ("value",)
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.factor, float) and not 0 < self.factor < 1:
            raise ValueError(f"reduce_on_plateau(factor=...): expected a number in (0, 1), got {self.factor:g}")
        if isinstance(self.rtol, float) and self.rtol > 1:
            raise ValueError(f"reduce_on_plateau(rtol=...): expected a number in [0, 1], got {self.rtol:g}")
        if self.rtol == 0.0 and self.atol == 0.0:
            raise ValueError("reduce_on_plateau(rtol=0, atol=0): expected at least one of them to be positive")

    def slots(self) -> tuple[Slot, ...]:
        values = tuple(Slot(name, role="scalar") for name in ("best_value", "avg_value"))
        return (*values, *(Slot(name, role="scalar", dtype=np.dtype(np.int32)) for name in _COUNTS))

    def update_leaves(self, s: SimpleNamespace, leaves: Leaves) -> Leaves:
        if jnp.shape(s.value):
            raise ValueError(f"reduce_on_plateau: expected value= to be a scalar, got shape {jnp.shape(s.value)}")
        memory, scale = self._looked_at(s, leaves.memory)

        def one(u: jax.Array) -> jax.Array:
            return u * scale.astype(jnp.finfo(u.dtype).dtype)

        return leaves.replace(memory=memory).with_updates([one(x.update) for x in leaves.signals])

    def _looked_at(self, s: SimpleNamespace, old: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
        """The memory after this value, and the factor of the update."""
        floating = scalar_dtype()
        gathered = old["gathered"] + 1
        share = 1 / gathered.astype(floating)
        first = old["gathered"] == 0
        value = jnp.asarray(s.value).astype(floating)
        mean = jnp.where(first, value, old["avg_value"] + (value - old["avg_value"]) * share)
        complete = gathered.astype(floating) >= s.accumulation_size
        best = old["best_value"]
        improved = (old["evaluations"] == 0) | (mean < (1 - s.rtol) * best - s.atol)
        cooling = old["cooldown_count"] > 0
        waited = jnp.where(improved, 0, old["plateau_count"] + 1)
        plateau = complete & ~cooling & ~improved & (waited.astype(floating) >= s.patience)
        cooled = jnp.where(cooling, old["cooldown_count"] - 1, jnp.where(plateau, s.cooldown.astype(jnp.int32), 0))
        memory = {
            "best_value": jnp.where(complete & improved, mean, best),
            "avg_value": mean,
            "reductions": old["reductions"] + plateau.astype(jnp.int32),
            "plateau_count": jnp.where(complete, jnp.where(cooling | plateau, 0, waited), old["plateau_count"]),
            "cooldown_count": jnp.where(complete, cooled, old["cooldown_count"]),
            "gathered": jnp.where(complete, 0, gathered),
            "evaluations": jnp.where(complete, jnp.minimum(old["evaluations"], 2**30) + 1, old["evaluations"]),
        }
        return memory, jnp.maximum(s.factor ** memory["reductions"].astype(floating), s.min_scale)
