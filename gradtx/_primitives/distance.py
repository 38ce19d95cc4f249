"""Learning rates from an estimate of the distance to the solution: Prodigy."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.safe import safe_divide, safe_sqrt, square
from gradtx._core.schedule import Schedule
from gradtx._core.signal import Signal
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
        numbers = {k: v for k, v in vars(s).items() if isinstance(v, jax.Array)}
        slots, inner, absolute = [], [], []
        for i, (signal, old) in enumerate(zip(leaves.signals, leaves.slots, strict=True)):
            limit = _limit(signal.update.real.dtype, i)
            new, product, length_of_leaf = _accumulated(self.safeguard_warmup, numbers, limit, signal, old)
            slots.append(new)
            inner.append(product)
            absolute.append(length_of_leaf)
        numerator = s.keep * leaves.memory["numerator"] + s.gamma * _total(inner, s.d)
        length = _total(absolute, s.d)
        estimate = jnp.where(length > 0, s.estim_lr_coef * numerator / jnp.where(length > 0, length, 1), 0)
        d = jnp.maximum(s.d, jnp.where(jnp.isfinite(length), estimate, jnp.nan))
        numbers["floor"] = s.eps * (d / s.d) / s.root
        signals = [_stepped(numbers, *pair) for pair in zip(leaves.signals, slots, strict=True)]
        memory = {"estim_lr": d, "previous_lr": s.d, "numerator": numerator}
        return leaves.replace(signals=signals, slots=slots, memory=memory)


def _limit(real: np.dtype, leaf: int) -> jax.Array:
    """What the gradient in the inner product is limited to: for each leaf a few units in the last place less.

    XLA:CPU sums a product without writing its factors first if they are no selections, no minimum of a maximum whose limits
    it knows, and no limits that leaves share.
    """
    information = jnp.finfo(real)
    below = 1 - (leaf + 1) * float(information.eps)
    return jax.lax.optimization_barrier(jnp.asarray(float(information.max) ** 0.5 * below, real))


@functools.partial(jax.jit, static_argnums=0)
def _accumulated(
    safeguard_warmup: bool, numbers: Slots, limit: jax.Array, signal: Signal, old: Slots
) -> tuple[Slots, jax.Array, jax.Array]:
    """One leaf's slots after a step, and its parts of the inner product and of the sum of absolute values."""
    signal = signal.capture()
    assert signal.param is not None
    g, real = signal.captured, signal.captured.real.dtype
    names = ("shrink", "rate1", "rate2", "keep", "gamma")
    shrink, rate1, rate2, keep, gamma = (numbers[name].astype(real) for name in names)
    new = {
        "mu": towards(old["mu"] * shrink, g, rate1),
        "nu": towards(old["nu"] * (shrink * shrink), signal.squares, rate2),
        "grad_sum": keep * old["grad_sum"] + (g if safeguard_warmup else gamma * g),
        "params0": old["params0"],
    }
    limited = g if signal.whole is None else jnp.maximum(jnp.minimum(signal.whole, limit), -limit)
    return new, _inner(limited, new["params0"] - signal.param), _absolute(new["grad_sum"])


@jax.jit
def _stepped(numbers: Slots, signal: Signal, new: Slots) -> Signal:
    """One leaf's step."""
    signal, real = signal.capture(), signal.update.real.dtype
    assert signal.param is not None
    direction = safe_divide(new["mu"], safe_sqrt(new["nu"]) + numbers["floor"].astype(real))
    decay = (numbers["weight_decay"] * numbers["correction"]).astype(real) * signal.param
    update = -(numbers["d"] * numbers["learning_rate"]).astype(real) * (direction + decay)
    return signal.write(update).replace(sense=signal.sense.turned())


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
