"""gradtx: composable gradient transformations for JAX, where a chain is data."""

from gradtx import schedules as schedules
from gradtx import storage as storage

# The core
from gradtx._apply import apply_updates as apply_updates
from gradtx._apply import step as step

# Past one device
from gradtx._checkpoints import check_state as check_state
from gradtx._checkpoints import state_manifest as state_manifest

# The core
from gradtx._core.chain import chain as chain
from gradtx._core.chain import named_chain as named_chain
from gradtx._core.chain import scope as scope
from gradtx._core.hyperparameters import decay_field as decay_field
from gradtx._core.hyperparameters import number_field as number_field
from gradtx._core.schedule import Schedule as Schedule
from gradtx._core.signal import Signal as Signal
from gradtx._core.slots import Slot as Slot
from gradtx._core.slots import State as State
from gradtx._core.stages import Leafwise as Leafwise
from gradtx._core.stages import Leaves as Leaves
from gradtx._core.stages import Step as Step
from gradtx._core.stages import Treewise as Treewise
from gradtx._core.transform import Transform as Transform
from gradtx._core.transform import named as named

# Parameter groups
from gradtx._groups import Groups as Groups
from gradtx._groups import by_path as by_path
from gradtx._groups import freeze as freeze

# Seeing and steering
from gradtx._inject import inject_hyperparams as inject_hyperparams
from gradtx._inspect.carrying import carry_state as carry_state
from gradtx._inspect.describe import describe as describe
from gradtx._inspect.difference import diff as diff
from gradtx._inspect.failures import NonfiniteReport as NonfiniteReport
from gradtx._inspect.failures import ReportState as ReportState
from gradtx._inspect.failures import find_nonfinite as find_nonfinite
from gradtx._inspect.failures import report_nonfinite as report_nonfinite
from gradtx._inspect.memory import MemoryPlan as MemoryPlan
from gradtx._inspect.memory import memory_plan as memory_plan
from gradtx._inspect.meters import changed as changed
from gradtx._inspect.meters import effective_learning_rate as effective_learning_rate
from gradtx._inspect.meters import fraction_clipped as fraction_clipped
from gradtx._inspect.meters import gradient_norm as gradient_norm
from gradtx._inspect.meters import metrics as metrics
from gradtx._inspect.meters import nonfinite_count as nonfinite_count
from gradtx._inspect.meters import parameter_norm as parameter_norm
from gradtx._inspect.meters import second_moment_statistics as second_moment_statistics
from gradtx._inspect.meters import update_cosine as update_cosine
from gradtx._inspect.meters import update_norm as update_norm
from gradtx._inspect.meters import update_ratio as update_ratio
from gradtx._inspect.numbers import hyperparams as hyperparams
from gradtx._inspect.probes import Probe as Probe
from gradtx._inspect.probes import View as View
from gradtx._inspect.probes import mark as mark
from gradtx._inspect.probes import probe as probe
from gradtx._inspect.surgery import get_slot as get_slot
from gradtx._inspect.surgery import map_slots as map_slots
from gradtx._inspect.surgery import reset_slots as reset_slots
from gradtx._inspect.surgery import set_slot as set_slot
from gradtx._inspect.surgery import set_slots as set_slots
from gradtx._inspect.surgery import slots as slots
from gradtx._inspect.surgery import warm_restart as warm_restart

# Parameter groups
from gradtx._matrices import axes_are as axes_are
from gradtx._matrices import matrices as matrices

# Optimizers
from gradtx._optimizers.adabelief import adabelief as adabelief
from gradtx._optimizers.adabelief import scale_by_belief as scale_by_belief
from gradtx._optimizers.adadelta import adadelta as adadelta
from gradtx._optimizers.adadelta import scale_by_adadelta as scale_by_adadelta
from gradtx._optimizers.adafactor import adafactor as adafactor
from gradtx._optimizers.adafactor import scale_by_factored_rms as scale_by_factored_rms
from gradtx._optimizers.adagrad import adagrad as adagrad
from gradtx._optimizers.adagrad import scale_by_rss as scale_by_rss
from gradtx._optimizers.adam import adam as adam
from gradtx._optimizers.adam import adamw as adamw
from gradtx._optimizers.adam import scale_by_adam as scale_by_adam
from gradtx._optimizers.adamax import adamax as adamax
from gradtx._optimizers.adamax import adamaxw as adamaxw
from gradtx._optimizers.adamax import scale_by_adamax as scale_by_adamax
from gradtx._optimizers.adan import adan as adan
from gradtx._optimizers.adan import scale_by_adan as scale_by_adan
from gradtx._optimizers.ademamix import ademamix as ademamix
from gradtx._optimizers.ademamix import scale_by_ademamix as scale_by_ademamix
from gradtx._optimizers.adopt import adopt as adopt
from gradtx._optimizers.adopt import scale_by_adopt as scale_by_adopt
from gradtx._optimizers.amsgrad import amsgrad as amsgrad
from gradtx._optimizers.amsgrad import scale_by_amsgrad as scale_by_amsgrad
from gradtx._optimizers.averaging import ema as ema
from gradtx._optimizers.kron import kron as kron
from gradtx._optimizers.layerwise import fromage as fromage
from gradtx._optimizers.layerwise import lamb as lamb
from gradtx._optimizers.layerwise import lars as lars
from gradtx._optimizers.lbfgs import lbfgs as lbfgs
from gradtx._optimizers.lookahead import LookaheadParams as LookaheadParams
from gradtx._optimizers.lookahead import lookahead as lookahead
from gradtx._optimizers.mars import mars as mars
from gradtx._optimizers.muon import muon as muon
from gradtx._optimizers.nadam import nadam as nadam
from gradtx._optimizers.nadam import nadamw as nadamw
from gradtx._optimizers.novograd import novograd as novograd
from gradtx._optimizers.novograd import scale_by_novograd as scale_by_novograd
from gradtx._optimizers.optimistic import optimistic_adam_v2 as optimistic_adam_v2
from gradtx._optimizers.optimistic import optimistic_gradient_descent as optimistic_gradient_descent
from gradtx._optimizers.prodigy import prodigy as prodigy
from gradtx._optimizers.radam import radam as radam
from gradtx._optimizers.radam import scale_by_radam as scale_by_radam
from gradtx._optimizers.rmsprop import rmsprop as rmsprop
from gradtx._optimizers.rmsprop import scale_by_stddev as scale_by_stddev
from gradtx._optimizers.schedule_free import schedule_free as schedule_free
from gradtx._optimizers.schedule_free import schedule_free_adamw as schedule_free_adamw
from gradtx._optimizers.schedule_free import schedule_free_sgd as schedule_free_sgd
from gradtx._optimizers.sgd import sgd as sgd
from gradtx._optimizers.signs import lion as lion
from gradtx._optimizers.signs import rprop as rprop
from gradtx._optimizers.signs import scale_by_lion as scale_by_lion
from gradtx._optimizers.signs import sign_sgd as sign_sgd
from gradtx._optimizers.signs import signum as signum
from gradtx._optimizers.sm3 import scale_by_sm3 as scale_by_sm3
from gradtx._optimizers.sm3 import sm3 as sm3
from gradtx._optimizers.soap import soap as soap
from gradtx._optimizers.sophia import sophia as sophia
from gradtx._optimizers.stable_adamw import stable_adamw as stable_adamw
from gradtx._optimizers.stochastic import noisy_sgd as noisy_sgd
from gradtx._optimizers.stochastic import polyak_sgd as polyak_sgd
from gradtx._optimizers.yogi import scale_by_yogi as scale_by_yogi
from gradtx._optimizers.yogi import yogi as yogi

# Primitives
from gradtx._primitives.belief import ema_belief_moment as ema_belief_moment
from gradtx._primitives.bias_correction import bias_correction as bias_correction
from gradtx._primitives.caution import capture_gradient as capture_gradient
from gradtx._primitives.caution import cautious as cautious
from gradtx._primitives.caution import cautious_weight_decay as cautious_weight_decay
from gradtx._primitives.cleaning import centralize as centralize
from gradtx._primitives.cleaning import keep_params_nonnegative as keep_params_nonnegative
from gradtx._primitives.cleaning import set_to_zero as set_to_zero
from gradtx._primitives.cleaning import zero_nans as zero_nans
from gradtx._primitives.clipping import clip as clip
from gradtx._primitives.clipping import clip_by_global_norm as clip_by_global_norm
from gradtx._primitives.clipping import global_norm as global_norm
from gradtx._primitives.clipping import normalize_by_update_norm as normalize_by_update_norm
from gradtx._primitives.covers import covered_second_moment as covered_second_moment
from gradtx._primitives.covers import covered_sum_of_squares as covered_sum_of_squares
from gradtx._primitives.deltas import scale_by_delta_rms as scale_by_delta_rms
from gradtx._primitives.distance import scale_by_prodigy as scale_by_prodigy
from gradtx._primitives.eigenbasis import from_eigenbasis as from_eigenbasis
from gradtx._primitives.eigenbasis import to_eigenbasis as to_eigenbasis
from gradtx._primitives.factored import factored_second_moment as factored_second_moment
from gradtx._primitives.gathering import apply_every as apply_every
from gradtx._primitives.hessians import estimate_hessian_diagonal as estimate_hessian_diagonal
from gradtx._primitives.hessians import hutchinson_estimator_diag_hessian as hutchinson_estimator_diag_hessian
from gradtx._primitives.infinity_norm import scale_by_infinity_norm as scale_by_infinity_norm
from gradtx._primitives.interpolation import interpolate as interpolate
from gradtx._primitives.iterate_averages import average_iterates as average_iterates
from gradtx._primitives.iterate_averages import schedule_free_eval_params as schedule_free_eval_params
from gradtx._primitives.kronecker import scale_by_kron as scale_by_kron
from gradtx._primitives.layer_moments import ema_squared_norm as ema_squared_norm
from gradtx._primitives.layerwise import clip_by_block_rms as clip_by_block_rms
from gradtx._primitives.layerwise import scale_by_param_block_norm as scale_by_param_block_norm
from gradtx._primitives.layerwise import scale_by_param_block_rms as scale_by_param_block_rms
from gradtx._primitives.layerwise import scale_by_trust_ratio as scale_by_trust_ratio
from gradtx._primitives.layerwise import shrinking_step as shrinking_step
from gradtx._primitives.leaf_clipping import clip_by_leaf_norm as clip_by_leaf_norm
from gradtx._primitives.leaf_clipping import clip_by_surprise as clip_by_surprise
from gradtx._primitives.line_searches import scale_by_backtracking_linesearch as scale_by_backtracking_linesearch
from gradtx._primitives.line_searches import scale_by_zoom_linesearch as scale_by_zoom_linesearch
from gradtx._primitives.matrices import MuonDimensionNumbers as MuonDimensionNumbers
from gradtx._primitives.moments import ema_centered_moment as ema_centered_moment
from gradtx._primitives.moments import ema_first_moment as ema_first_moment
from gradtx._primitives.moments import ema_second_moment as ema_second_moment
from gradtx._primitives.moments import sum_of_squares as sum_of_squares
from gradtx._primitives.momentum import nesterov as nesterov
from gradtx._primitives.momentum import trace as trace
from gradtx._primitives.noise import add_noise as add_noise
from gradtx._primitives.normalization import normalize as normalize
from gradtx._primitives.optimism import scale_by_optimistic_gradient as scale_by_optimistic_gradient
from gradtx._primitives.orthogonalize import orthogonalize as orthogonalize
from gradtx._primitives.orthogonalize import scale_by_dual_norm as scale_by_dual_norm
from gradtx._primitives.orthogonalize import scale_by_shape as scale_by_shape
from gradtx._primitives.parameter_averages import average_parameters as average_parameters
from gradtx._primitives.parameter_averages import averaged_parameters as averaged_parameters
from gradtx._primitives.parameter_averages import slow_parameters as slow_parameters
from gradtx._primitives.parameter_averages import synchronize_slow_weights as synchronize_slow_weights
from gradtx._primitives.plateau import reduce_on_plateau as reduce_on_plateau
from gradtx._primitives.polyak import scale_by_polyak as scale_by_polyak
from gradtx._primitives.previous import nesterov_difference as nesterov_difference
from gradtx._primitives.previous import scale_by_previous_rms as scale_by_previous_rms
from gradtx._primitives.previous import variance_reduction as variance_reduction
from gradtx._primitives.quasi_newton import scale_by_lbfgs as scale_by_lbfgs
from gradtx._primitives.rectification import ema_second_moment_of_length as ema_second_moment_of_length
from gradtx._primitives.rectification import scale_by_rectified_rms as scale_by_rectified_rms
from gradtx._primitives.resilient import scale_by_rprop as scale_by_rprop
from gradtx._primitives.running_max import running_max as running_max
from gradtx._primitives.scaling import identity as identity
from gradtx._primitives.scaling import scale as scale
from gradtx._primitives.scaling import scale_by_learning_rate as scale_by_learning_rate
from gradtx._primitives.scaling import scale_by_rms as scale_by_rms
from gradtx._primitives.scaling import scale_by_schedule as scale_by_schedule
from gradtx._primitives.scaling import scale_by_sign as scale_by_sign
from gradtx._primitives.scaling import scale_by_tanh as scale_by_tanh
from gradtx._primitives.slow_average import add_slow_average as add_slow_average
from gradtx._primitives.unitwise import adaptive_grad_clip as adaptive_grad_clip
from gradtx._primitives.unitwise import unitwise_norm as unitwise_norm
from gradtx._primitives.weight_decay import add_decayed_weights as add_decayed_weights
from gradtx._primitives.weight_decay import decoupled_weight_decay as decoupled_weight_decay
from gradtx._primitives.yogi import additive_second_moment as additive_second_moment

# Past one device
from gradtx._rehearsal.rehearse import rehearse as rehearse
from gradtx._rehearsal.report import Rehearsal as Rehearsal
from gradtx._rehearsal.targets import data_mesh as data_mesh
from gradtx._rehearsal.targets import topology_mesh as topology_mesh
from gradtx._repadding import repad_state as repad_state
from gradtx._restoring import restore_run as restore_run

# Rounding of 16-bit parameters
from gradtx._rounding.compensated import compensated as compensated
from gradtx._rounding.master import master_weights as master_weights
from gradtx._rounding.reading import master_parameters as master_parameters
from gradtx._rounding.stochastic import stochastic_rounding as stochastic_rounding

# Past one device
from gradtx._sharding import abstract_state as abstract_state
from gradtx._sharding import state_shardings as state_shardings

# Storage
from gradtx._storing import with_storage as with_storage
from gradtx._storing import without_storage as without_storage

# Wrappers
from gradtx._wrappers.accumulation import AccumulateState as AccumulateState
from gradtx._wrappers.accumulation import accumulate_gradients as accumulate_gradients
from gradtx._wrappers.accumulation import has_updated as has_updated
from gradtx._wrappers.curvature import CurvatureState as CurvatureState
from gradtx._wrappers.curvature import divide_by_curvature as divide_by_curvature
from gradtx._wrappers.loss_scaling import LossScaleState as LossScaleState
from gradtx._wrappers.loss_scaling import dynamic_loss_scale as dynamic_loss_scale
from gradtx._wrappers.loss_scaling import loss_scale as loss_scale
from gradtx._wrappers.offloading import OffloadState as OffloadState
from gradtx._wrappers.offloading import offload_state as offload_state
from gradtx._wrappers.restarts import RestartState as RestartState
from gradtx._wrappers.restarts import restart_every as restart_every
from gradtx._wrappers.sharding import ShardState as ShardState
from gradtx._wrappers.sharding import shard_state as shard_state
from gradtx._wrappers.sharpness import SAMState as SAMState
from gradtx._wrappers.sharpness import sam as sam
from gradtx._wrappers.skipping import SkipState as SkipState
from gradtx._wrappers.skipping import skip_nonfinite as skip_nonfinite

__version__ = "0.1.0"
