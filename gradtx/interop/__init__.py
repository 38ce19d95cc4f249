"""Moving a run over: states of `torch.optim` and of Optax, both ways."""

from gradtx.interop._nadam import scheduled_nesterov as scheduled_nesterov
from gradtx.interop._names import Reshape as Reshape
from gradtx.interop._optax import from_optax as from_optax
from gradtx.interop._optax import to_optax as to_optax
from gradtx.interop._torch import from_torch as from_torch
from gradtx.interop._torch import to_torch as to_torch
from gradtx.interop._torch_chains import transform_from_torch as transform_from_torch
