"""Second sequences of parameters beside the trained ones: their average, and the slow weights of lookahead."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from gradtx._core import dtypes, trees
from gradtx._core.hyperparameters import decay_field, number_field
from gradtx._core.pairs import SLOW
from gradtx._core.plan import linear
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Stage, Step, Wrapped
from gradtx._core.transform import Transform
from gradtx._primitives.averages import average, towards, weight_slot

Slots = dict[str, jax.Array]


class average_parameters(Leafwise):
    r"""Average the parameters as they are after the update, for evaluation; the update passes through. Put it last.

    $$a_t = b a_{t-1} + (1 - b) p_t, \qquad \hat a_t = a_t / (1 - b^t)$$

    Read it with `averaged_parameters`. A decay of $t / (t + 1)$, `lambda count: count / (count + 1)`, gives the plain
    mean of all steps (Polyak and Ruppert). Inside `accumulate_gradients` and `skip_nonfinite` it sees the steps that are
    made; behind them it would count the others as well.

    Args:
        decay: $b$ in [0, 1); may be a schedule.
        debias: whether the average forgets where it started (the default). Without, $a_0 = p_0$, as in PyTorch's
            `swa_utils`: the initial parameters then keep a weight of $b^t$.

    State:
        `average`: like the parameters, float32 (float64 for float64 parameters), at first the parameters themselves.
        `weight`: float[3], only if the decay is a schedule.

    Source:
        Polyak & Juditsky, SIAM J. Control Optim. 30(4), 1992; the debiased exponential form as in Kingma & Ba,
        arXiv:1412.6980, section 7.2.
    """

    decay: Any = decay_field(default=0.999)
    debias: bool = True

    requires: ClassVar[tuple[str, ...]] = ("param",)
    writes: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = True

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("average", initial="parameter"), *weight_slot(self.decay))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return average(step, self.decay)

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        assert signal.param is not None
        rate = s.rate if self.debias else s.gain
        return {"average": towards(slots["average"], signal.param + signal.update, rate)}


class synchronize_slow_weights(Leafwise):
    r"""Lookahead behind a fast optimizer: every $k$ steps go back part of the way, to the slow weights. Put it last.

    $$\phi \leftarrow \phi + \alpha (\theta - \phi), \quad \theta \leftarrow \phi \qquad \text{when } k \mid t$$

    Args:
        sync_period: $k \ge 1$, an int.
        slow_step_size: $\alpha$; may be a schedule.

    State:
        `slow`: like the parameters, float32 (float64 for float64 parameters): $\phi$, at first the parameters.

    Source:
        Zhang, Lucas, Hinton & Ba, "Lookahead Optimizer", arXiv:1907.08610, Algorithm 1.
    """

    sync_period: int
    slow_step_size: Any = number_field()

    requires: ClassVar[tuple[str, ...]] = ("param",)
    looks_ahead: ClassVar[bool] = True
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sync_period, int) or self.sync_period < 1:
            raise ValueError(f"lookahead(sync_period=...): expected an int of at least 1, got {self.sync_period!r}")

    def slots(self) -> tuple[Slot, ...]:
        return (Slot(SLOW, initial="parameter"),)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        return {"due": (step.count + 1) % self.sync_period == 0}, {}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        assert signal.param is not None
        fast = signal.param + signal.update
        return {SLOW: jnp.where(s.due != 0, towards(slots[SLOW], fast, s.slow_step_size), slots[SLOW])}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        assert signal.param is not None
        return signal.write(jnp.where(s.due != 0, slots[SLOW] - signal.param, signal.update))


def averaged_parameters(tx: Any, state: Any, params: Any) -> Any:
    """The parameters that `average_parameters` has averaged.

    Args:
        tx: a gradtx transformation with that stage anywhere in it.
        state: its state.
        params: the parameters: of a leaf that no such stage averages (another group's), they are the answer.

    Returns:
        A tree like the parameters, in their dtypes. Before the first step the parameters themselves.

    Raises:
        ValueError: there is no such stage.
    """
    return _read(tx, state, params, average_parameters, "average")


def slow_parameters(tx: Any, state: Any, params: Any) -> Any:
    """The slow weights of `lookahead`; arguments and result as for `averaged_parameters`. Of a `LookaheadParams` its own."""
    if isinstance(params, optax.LookaheadParams):
        return params.slow
    return _read(tx, state, params, synchronize_slow_weights, SLOW)


def _read(tx: Any, state: Any, params: Any, kind: type[Stage], name: str) -> Any:
    found = [entry[name] for stage, entry in stages_with_state(tx, state) if isinstance(stage, kind)]
    if not found:
        raise ValueError(f"there is no {kind.__name__} in {tx!r}")

    def one(param: Any, *kept: Any) -> Any:
        mine = [x for x in kept if not isinstance(x, optax.MaskedNode)]
        return dtypes.cast(mine[-1], param.dtype) if mine else param

    leaves, treedef = trees.flatten(params, "the parameter")
    kept = [treedef.flatten_up_to(tree) for tree in found]
    return jax.tree.unflatten(treedef, [one(*group) for group in zip(leaves, *kept, strict=True)])


def stages_with_state(tx: Any, state: Any) -> Iterator[tuple[Any, Any]]:
    """Every stage of a gradtx transformation, also of those in wrappers, with what the state keeps for it."""
    if not isinstance(tx, Transform):
        raise TypeError(
            f"expected a gradtx transformation and its state, got {tx!r}; of Optax's chain(a, b) give one part"
        )
    if not isinstance(tx, Stage):
        yield from stages_with_state(tx.tx, state.inner)
        return
    for stage, entry in zip(linear(tx), state.stages, strict=True):
        if isinstance(stage, Wrapped):
            yield from stages_with_state(stage.transformation, entry)
        else:
            yield stage, entry
