"""Caution: no step against the gradient, and no decay against the step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import number_field
from gradtx._core.order import label
from gradtx._core.signal import Sense, Signal
from gradtx._core.stages import Leafwise
from gradtx._primitives.weight_decay import mask_leaves

Slots = dict[str, jax.Array]


class capture_gradient(Leafwise):
    """Take what flows in at this place as the gradient, as an estimator does; the update passes through unchanged.

    For stages that compare with the gradient (`cautious`) behind optimizers that estimate nothing in their scope: plain
    `sgd`, parameter groups, Optax transformations. Estimators behind it see the gradient as it was here.

    State:
        none.
    """

    writes: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = True

    def check_place(self, before: dict[str, Any]) -> None:
        before.setdefault("captured", self)

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return signal.capture()


class cautious(Leafwise):
    r"""Drop the elements of the update that go against the gradient, and enlarge the others for it, leaf by leaf.

    $$\phi_i = [u_i g_i > 0], \qquad u \leftarrow \frac{u \phi}{\max(\text{mean}(\phi), 10^{-3})}$$

    $g$ is what the estimators before it saw, clipped for example. Signs are compared and nothing is multiplied, so no
    product over- or underflows. Before `scale_by_learning_rate` an update agrees with the gradient where its sign is
    the same, behind it where it is the opposite: `chain(adamw(1e-3), cautious())` drops whole steps, their decay
    included; in the paper's AdamW the stage stands right behind `scale_by_rms`, and the decay behind it.

    Complex elements agree where the angle between them is less than a right one, $\text{Re}(u_i \bar g_i) > 0$.

    Args:
        descends: whether the update, as it comes in, goes against the gradient, as behind a learning rate. None: as the
            stages before it have turned it, by learning rates and negative factors.

    State:
        none.

    Raises:
        ValueError: nothing before it in its scope has captured the gradient; `capture_gradient()` in front does. Or one of
            Optax's transformations stands in between, of which nothing says whether it turns the update: say `descends`.

    Source:
        Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", arXiv:2411.16085, Algorithm 1,
        with the scale of the authors' code (the algorithm has $d / (\sum_i \phi_i + 1)$ for a leaf of $d$ elements).
    """

    descends: bool | None = None

    def check_place(self, before: dict[str, Any]) -> None:
        if self.descends is None and "foreign" in before:
            raise ValueError(
                f"cautious cannot know whether {before['foreign']!r} turns the update against the gradient: say "
                "cautious(descends=True) if it does, as a whole optimizer of Optax's, or cautious(descends=False)"
            )
        if "captured" not in before:
            raise ValueError(
                "cautious compares the update with the gradient, which no stage before it in its scope has captured: put "
                "it behind an estimator (ema_first_moment, trace), or capture_gradient() in front of the chain"
            )

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        since = signal.captured_as.times(signal.sense)
        if self.descends is not None:
            since = Sense(self.descends)
        agrees = since.of(_alignment(signal.update, signal.captured)) > 0
        kept = agrees.astype(jnp.finfo(signal.update.dtype).dtype)
        share = jnp.sum(kept) / max(kept.size, 1)
        # A product, not a choice: NaN and infinity stay to be seen.
        return signal.write(signal.update * (kept / jnp.maximum(share, 1e-3)))


class cautious_weight_decay(Leafwise):
    r"""Decoupled weight decay of those elements only that the update shrinks, or leaves.

    $$u \leftarrow u + \lambda [u_i p_i \ge 0] p$$

    Behind `scale_by_learning_rate`, where $u$ is what is added to the parameters, both signs are the opposite:
    $u \leftarrow u - \lambda [u_i p_i \le 0] p$, and the learning rate does not multiply the decay. For complex elements
    $u_i p_i$ is $\text{Re}(u_i \bar p_i)$.

    Args:
        weight_decay: $\lambda \ge 0$; may be a schedule.
        mask: which leaves decay: a tree of bools like the parameters (or a prefix of it), a function `params -> tree
            of bools`, or a predicate `(path, leaf) -> bool`. None: all.

    State:
        none.

    Raises:
        ValueError: an estimator stands behind it in its scope: then the decay would enter the moments.

    Source:
        Chen et al., "Cautious Weight Decay", arXiv:2510.12402, Algorithm 1.
    """

    weight_decay: Any = number_field(default=0.0, minimum=0.0)
    mask: Any = None

    requires: ClassVar[tuple[str, ...]] = ("param",)
    ignores_zeros: ClassVar[bool] = True

    def check_place(self, before: dict[str, Any]) -> None:
        if "captured" not in before:
            before["decay before"] = self

    def applies(self, params: Any) -> list[bool] | None:
        return None if self.mask is None else mask_leaves(self.mask, params, label(self))

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        assert signal.param is not None
        decays = signal.sense.of(_alignment(signal.update, signal.param)) >= 0
        decay = jnp.where(decays, s.weight_decay * signal.param, 0)
        return signal.write(signal.update + signal.sense.of(decay))


def _alignment(x: jax.Array, y: jax.Array) -> jax.Array:
    """The cosine of the angle between complex elements; 1, 0 or -1 for real ones. NaN where one of them is."""
    if not jnp.iscomplexobj(x):
        return jnp.sign(x) * jnp.sign(y)
    x, y = jnp.sign(x), jnp.sign(y)
    return x.real * y.real + x.imag * y.imag
