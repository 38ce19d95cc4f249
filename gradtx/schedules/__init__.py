"""Schedules as data: Optax's functions of the step count, in dataclasses that compare, hash, pickle and print.

Each has Optax's name, arguments and defaults. Where Optax's formula loses digits (a cosine one step before its end has
none left) the value is computed in another way, to a relative error of at most 1e-6. The numbers that a schedule
interpolates between are pytree leaves, so a step that takes the transform as an argument does not compile again for
other ones; lengths in steps and rates are static.
"""

from gradtx.schedules._decays import constant_schedule as constant_schedule
from gradtx.schedules._decays import cosine_decay_schedule as cosine_decay_schedule
from gradtx.schedules._decays import exponential_decay as exponential_decay
from gradtx.schedules._decays import linear_schedule as linear_schedule
from gradtx.schedules._decays import polynomial_schedule as polynomial_schedule
from gradtx.schedules._decays import power_schedule as power_schedule
from gradtx.schedules._decays import warmup_constant_schedule as warmup_constant_schedule
from gradtx.schedules._decays import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from gradtx.schedules._decays import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule
from gradtx.schedules._pieces import cosine_onecycle_schedule as cosine_onecycle_schedule
from gradtx.schedules._pieces import join_schedules as join_schedules
from gradtx.schedules._pieces import linear_onecycle_schedule as linear_onecycle_schedule
from gradtx.schedules._pieces import piecewise_constant_schedule as piecewise_constant_schedule
from gradtx.schedules._pieces import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from gradtx.schedules._pieces import sgdr_schedule as sgdr_schedule
from gradtx.schedules._pieces import shifted as shifted
