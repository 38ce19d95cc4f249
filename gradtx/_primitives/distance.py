"""Learning rates from an estimate of the distance to the solution: Prodigy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.schedule import Schedule
from gradtx._core.signal import Signal, safe_divide, safe_sqrt, square
from gradtx._core.slots import Slot
from gradtx._core.stages import Leaves, Step, Treewise
from gradtx._primitives.averages import average, towards

Slots = dict[str, jax.Array]


class scale_by_prodigy(Treewise):
    r"""Adam's step, with weight decay, of a length that is estimated: the distance $d$ from the start to the solution.

    $$r_t = \beta_3 r_{t-1} + \gamma_t d_t^2 \langle g_t, p_0 - p_{t-1} \rangle, \qquad
      s_t = \beta_3 s_{t-1} + \gamma_t d_t^2 g_t$$

    $$d_{t+1} = \max \left( d_t, c \frac{r_t}{\lVert s_t \rVert_1} \right), \qquad
      u_t = -\gamma_t d_t \left( \frac{m_t}{\sqrt{v_t} + d_{t+1} \epsilon} + \lambda p_{t-1} \right)$$

    where $m$ and $v$ are the moving averages of $d_t g_t$ and of its square and $\gamma_t = \eta_t \sqrt{1 - b_2^t} / (1 -
    b_1^t)$. The norms and products run over the whole tree. Everything kept is divided by the power of $d$ that is in it,
    so that estimates of any size neither over- nor underflow.

    Args:
        learning_rate: $\eta$, a number or a schedule; 1 at its highest.
        b1: the decay of the first moment, in [0, 1).
        b2: the decay of the second moment, in [0, 1).
        beta3: the decay of the sums of the estimate, in [0, 1).
        eps: $\epsilon \ge 0$.
        estim_lr0: $d_1 > 0$, smaller than the distance.
        estim_lr_coef: $c$.
        weight_decay: $\lambda \ge 0$; may be a schedule.
        safeguard_warmup: whether $s$ leaves $\gamma$ out, so that a warmup does not make the estimate larger.

    State:
        `mu`, `nu` (real): the debiased means of Adam's moments of the gradient, `grad_sum`: $s / d^2$, `params0`: a copy
        of the first parameters; like the parameters. `estim_lr`: float, $d_{t+1}$, what the next step is long; 0 before
        the first. `previous_lr`: float, $d_t$. `numerator`: float, $r / d^2$.

    Raises:
        TypeError: a decay is a schedule.

    Source:
        Mishchenko & Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", arXiv:2306.06101, Algorithm 4;
        $\gamma$, $c$, the safeguard and the decay as in the authors' code.
    """

    learning_rate: Any = number_field(default=1.0)
    b1: Any = decay_field(default=0.9)
    b2: Any = decay_field(default=0.999)
    beta3: Any = decay_field(default=0.999**0.5)
    eps: Any = number_field(default=1e-8, minimum=0.0)
    estim_lr0: Any = number_field(default=1e-6, minimum=0.0)
    estim_lr_coef: Any = number_field(default=1.0, minimum=0.0)
    weight_decay: Any = number_field(default=0.0, minimum=0.0)
    safeguard_warmup: bool = False

    requires: ClassVar[tuple[str, ...]] = ("param",)
    squares: ClassVar[bool] = True
    turns: ClassVar[Any] = True
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("b1", "b2", "beta3"):
            if isinstance(getattr(self, name), Schedule):
                raise TypeError(f"prodigy({name}=...): expected a number, got the schedule {getattr(self, name)!r}")
        if isinstance(self.estim_lr0, float) and self.estim_lr0 == 0:  # not of a tracer
            raise ValueError("prodigy(estim_lr0=...): expected a number > 0, got 0: the estimate could never grow")

    def slots(self) -> tuple[Slot, ...]:
        mirrors = (
            Slot("mu", rate="rate1"),
            Slot("nu", real=True, rate="rate2"),
            Slot("grad_sum"),
            Slot("params0", initial="parameter"),
        )
        return (*mirrors, *(Slot(name, "scalar") for name in ("estim_lr", "previous_lr", "numerator")))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        first, second = average(step, self.b1)[0], average(step, self.b2)[0]
        start = step.value(self.estim_lr0)
        d = jnp.where(step.count == 0, start, step.memory["estim_lr"])
        shrink = jnp.where(step.count == 0, 1, step.memory["previous_lr"] / d)
        root = jnp.sqrt(second["weight"])
        gamma = step.value(self.learning_rate) * (root / first["weight"])
        numbers = {"d": d, "shrink": shrink, "root": root, "gamma": gamma, "keep": step.value(self.beta3) * shrink**2}
        return {**numbers, "rate1": first["rate"], "rate2": second["rate"], "correction": root / first["weight"]}, {}

    def update_leaves(self, s: SimpleNamespace, leaves: Leaves) -> Leaves:
        captured = [signal.capture() for signal in leaves.signals]
        slots = [self._accumulate(s, old, signal) for old, signal in zip(leaves.slots, captured, strict=True)]
        pairs = list(zip(captured, slots, strict=True))
        limited = [_limited(signal, i) for i, signal in enumerate(captured)]
        moved = _total([_inner(g, _moved(*pair)) for g, pair in zip(limited, pairs, strict=True)], s.d)
        numerator = s.keep * leaves.memory["numerator"] + s.gamma * moved
        length = _total([_absolute(new["grad_sum"]) for new in slots], s.d)
        estimate = jnp.where(length > 0, s.estim_lr_coef * numerator / jnp.where(length > 0, length, 1), 0)
        d = jnp.maximum(s.d, jnp.where(jnp.isfinite(length), estimate, jnp.nan))
        eps = s.eps * (d / s.d) / s.root

        def emit(signal: Signal, new: Slots) -> Signal:
            real = jnp.finfo(signal.update.dtype).dtype
            direction = safe_divide(new["mu"], safe_sqrt(new["nu"]) + eps.astype(real))
            decay = (s.weight_decay * s.correction).astype(real) * signal.param
            turned = -(s.d * s.learning_rate).astype(real) * (direction + decay)
            return signal.write(turned).replace(sense=signal.sense.turned())

        memory = {"estim_lr": d, "previous_lr": s.d, "numerator": numerator}
        return leaves.replace(signals=[emit(*pair) for pair in pairs], slots=slots, memory=memory)

    def _accumulate(self, s: SimpleNamespace, old: Slots, signal: Signal) -> Slots:
        g, real = signal.captured, jnp.finfo(signal.captured.dtype).dtype
        shrink, rate1, rate2, keep = (x.astype(real) for x in (s.shrink, s.rate1, s.rate2, s.keep))
        share = jnp.ones((), real) if self.safeguard_warmup else s.gamma.astype(real)
        return {
            "mu": towards(old["mu"] * shrink, g, rate1),
            "nu": towards(old["nu"] * (shrink * shrink), signal.squares, rate2),
            "grad_sum": keep * old["grad_sum"] + share * g,
            "params0": old["params0"],
        }


def _limited(signal: Signal, leaf: int) -> jax.Array:
    """The captured gradient, infinities limited too, for a sum that XLA:CPU then takes without writing it first.

    It writes selections, a minimum of a maximum whose limits it knows, and limits that leaves share: here each has its own,
    a few units in the last place below the others', behind a barrier.
    """
    if signal.whole is None:
        return signal.captured
    information = jnp.finfo(signal.whole.dtype)
    below = 1 - (leaf + 1) * float(information.eps)
    limit = jnp.asarray(float(information.max) ** 0.5 * below, signal.whole.dtype)
    limit = jax.lax.optimization_barrier(limit)
    return jnp.maximum(jnp.minimum(signal.whole, limit), -limit)


def _moved(signal: Signal, slots: Slots) -> jax.Array:
    assert signal.param is not None
    return slots["params0"] - signal.param


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """The real inner product, also of complex arrays."""
    if jnp.iscomplexobj(a):
        return jnp.sum(a.real * b.real) + jnp.sum(a.imag * b.imag)
    return jnp.sum(a * b)


def _absolute(x: jax.Array) -> jax.Array:
    """The sum of the absolute values."""
    return jnp.sum(safe_sqrt(square(x)) if jnp.iscomplexobj(x) else jnp.abs(x))


def _total(parts: list[jax.Array], like: jax.Array) -> jax.Array:
    return sum((part.astype(like.dtype) for part in parts), start=jnp.zeros_like(like))
