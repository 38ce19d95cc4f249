"""Oracles: every optimizer in NumPy float64, written from its paper, and nothing shared with the code under test.

An oracle keeps its own state: `update(g, p) -> u` takes the gradient and the parameter of this step (any shape) and
returns what to add to the parameter. Arguments are named as gradtx and Optax name them, so that a row of the zoo builds
its oracle from its own keywords. 0/0 is 0: no gradient, no update.
"""

from reference.adabelief import AdaBelief
from reference.adadelta import AdaDelta
from reference.adafactor import Adafactor
from reference.adagrad import AdaGrad
from reference.adam import Adam, AdamL2, AdamW, AMSGrad, NAdam, NAdamW
from reference.adamax import AdaMax, AdaMaxW
from reference.adams_later import (
    ADOPT,
    MARS,
    AdamWCautiousDecay,
    Adan,
    AdEMAMix,
    CautiousAdamW,
    OptimisticAdam,
    StableAdamW,
)
from reference.ema import EMA
from reference.kron import Kron
from reference.layerwise import LAMB, LARS, Fromage
from reference.lbfgs import LBFGS
from reference.muon import Muon
from reference.novograd import NovoGrad
from reference.optimistic import OptimisticGradientDescent
from reference.polyak import PolyakSGD
from reference.prodigy import Prodigy
from reference.radam import RAdam
from reference.rmsprop import RMSProp
from reference.sequences import Lookahead, ScheduleFreeAdamW, ScheduleFreeAround, ScheduleFreeSGD
from reference.sgd import SGD
from reference.sharpness import SAM
from reference.signs import Lion, Rprop, SignSGD, Signum
from reference.sm3 import SM3
from reference.soap import SOAP
from reference.sophia import Sophia
from reference.yogi import Yogi

# Rows of the zoo by name; a row's keywords are its oracle's.
ORACLES = {
    "ema": EMA,
    "sgd": SGD,
    "sgd_momentum": SGD,
    "sgd_nesterov": SGD,
    "sgd_ema": SGD,
    "adadelta": AdaDelta,
    "adafactor": Adafactor,
    "lbfgs": LBFGS,
    "polyak_sgd": PolyakSGD,
    "novograd": NovoGrad,
    "sm3": SM3,
    "adagrad": AdaGrad,
    "optimistic_gradient_descent": OptimisticGradientDescent,
    "sign_sgd": SignSGD,
    "signum": Signum,
    "lion": Lion,
    "rprop": Rprop,
    "lars": LARS,
    "lamb": LAMB,
    "fromage": Fromage,
    "rmsprop": RMSProp,
    "rmsprop_centered_momentum": RMSProp,
    "adam": Adam,
    "adam_nesterov": Adam,
    "adamw": AdamW,
    "adam_l2": AdamL2,
    "amsgrad": AMSGrad,
    "amsgrad_raw": AMSGrad,
    "nadam": NAdam,
    "nadamw": NAdamW,
    "radam": RAdam,
    "radam_nesterov": RAdam,
    "adamax": AdaMax,
    "adamaxw": AdaMaxW,
    "adabelief": AdaBelief,
    "yogi": Yogi,
    "ademamix": AdEMAMix,
    "adopt": ADOPT,
    "adan": Adan,
    "optimistic_adam_v2": OptimisticAdam,
    "stable_adamw": StableAdamW,
    "mars": MARS,
    "cautious_adamw": CautiousAdamW,
    "adamw_cautious_decay": AdamWCautiousDecay,
    "lookahead": Lookahead,
    "sam": SAM,
    "sophia": Sophia,
    "prodigy": Prodigy,
    "schedule_free": ScheduleFreeAround,
    "schedule_free_sgd": ScheduleFreeSGD,
    "schedule_free_adamw": ScheduleFreeAdamW,
    "muon": Muon,
    "soap": SOAP,
    "kron": Kron,
}
