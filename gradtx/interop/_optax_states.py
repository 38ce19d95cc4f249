"""What the states of Optax hold, in the words of chains."""

from __future__ import annotations

from gradtx._core.stages import Stage
from gradtx._primitives.belief import ema_belief_moment
from gradtx._primitives.covers import covered_second_moment, covered_sum_of_squares
from gradtx._primitives.deltas import scale_by_delta_rms
from gradtx._primitives.distance import scale_by_prodigy
from gradtx._primitives.infinity_norm import scale_by_infinity_norm
from gradtx._primitives.layer_moments import ema_squared_norm
from gradtx._primitives.moments import ema_centered_moment, ema_first_moment, ema_second_moment, sum_of_squares
from gradtx._primitives.momentum import trace
from gradtx._primitives.optimism import scale_by_optimistic_gradient
from gradtx._primitives.previous import nesterov_difference
from gradtx._primitives.rectification import ema_second_moment_of_length
from gradtx._primitives.running_max import running_max
from gradtx._primitives.yogi import additive_second_moment

Kinds = tuple[type[Stage], ...]
Place = tuple[Kinds, str]  # kinds of stages, of which a chain has one, and the name of one of its raw arrays

_FIRST: Kinds = (ema_first_moment,)
# Optax's Adam, RAdam, AdaMax and Yogi have one kind of state.
_SECOND: Kinds = (ema_second_moment, ema_second_moment_of_length, scale_by_infinity_norm, additive_second_moment)
_CENTERED: Kinds = (ema_centered_moment,)
_COVERS: Kinds = (covered_sum_of_squares, covered_second_moment)
_DISTANCE: Kinds = (scale_by_prodigy,)

# What the fields of an Optax state hold: in order, since a chain may have two stages of a kind.
RECORDS: dict[str, dict[str, Place]] = {
    "ScaleByAdamState": {"mu": (_FIRST, "mu"), "nu": (_SECOND, "nu")},
    "ScaleByAmsgradState": {"mu": (_FIRST, "mu"), "nu": (_SECOND, "nu"), "nu_max": ((running_max,), "nu_max")},
    "ScaleByBeliefState": {"mu": (_FIRST, "mu"), "nu": ((ema_belief_moment,), "nu")},
    "ScaleByNovogradState": {"mu": ((trace,), "trace"), "nu": ((ema_squared_norm,), "nu")},
    "ScaleByRmsState": {"nu": (_SECOND, "nu")},
    "ScaleByRmsWithCountState": {"nu": (_SECOND, "nu")},
    "ScaleByRStdDevState": {"mu": (_CENTERED, "mu"), "nu": (_CENTERED, "nu")},
    "ScaleByRStdDevWithCountState": {"mu": (_CENTERED, "mu"), "nu": (_CENTERED, "nu")},
    "ScaleByRssState": {"sum_of_squares": ((sum_of_squares,), "nu")},
    "ScaleByAdaDeltaState": {"e_g": (_SECOND, "nu"), "e_x": ((scale_by_delta_rms,), "delta")},
    "ScaleByLionState": {"mu": (_FIRST, "mu")},
    "ScaleByOptimisticGradientState": {"previous_gradient": ((scale_by_optimistic_gradient,), "previous_gradient")},
    "MuonState": {"mu": (_FIRST, "mu")},
    "ScaleByAdanState": {
        "m": (_FIRST, "mu"),
        "v": ((nesterov_difference,), "mu_difference"),
        "g": ((nesterov_difference,), "previous_gradient"),
        "n": (_SECOND, "nu"),
    },
    "ScaleBySM3State": {"mu": (_COVERS, "nu"), "nu": (_FIRST, "mu")},
    "ProdigyState": {
        "exp_avg": (_DISTANCE, "mu"),
        "exp_avg_sq": (_DISTANCE, "nu"),
        "grad_sum": (_DISTANCE, "grad_sum"),
        "params0": (_DISTANCE, "params0"),
    },
    "TraceState": {"trace": ((trace,), "trace")},
    "EmaState": {"ema": (_FIRST, "mu")},
}
# What such a state has once: the field, and the name of the number of the stage.
ONCE: dict[str, dict[str, str]] = {"ProdigyState": {"estim_lr": "estim_lr", "numerator_weighted": "numerator"}}
# Step counts that are not called so.
COUNTS = {"ScaleByAdanState": "t"}
# States around others, or with nothing but a count.
CONTAINERS: dict[str, tuple[str, ...]] = {
    "EmptyState": (),
    "MaskedNode": (),
    "MaskedState": ("inner_state",),
    "PartitionState": ("inner_states",),
    "MultiTransformState": ("inner_states",),
    "InjectHyperparamsState": ("inner_state",),
    "InjectStatefulHyperparamsState": ("inner_state", "hyperparams_states"),
    "WrappedScheduleState": (),
    "ScaleByScheduleState": (),
    "WeightDecaySchedule": (),
}
