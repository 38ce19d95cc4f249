"""How many digits an update has: median errors in float32 ULP against float64 oracles, of gradtx, Optax and PyTorch.

    python -m benchmarks.accuracy [--steps 100000] [--size 64] [--seed 0]

Run it from the root of the repository, with the tests' oracles (tests/reference). Every library is given the same
float32 gradients and a learning rate that float32 holds exactly. PyTorch writes parameters in place and shows no
update; its parameters are set to zero before each step, so that what it writes is the update. That leaves it no
AdamW, whose update depends on the parameter.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optax

import gradtx
from benchmarks import common

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from reference import AdaGrad, Adam, AdamW, RMSProp
from reference import sweep as sweeps

LR = 2.0**-10
DECAY = 0.125

# Row: oracle, then each library's transformation; torch as (class in torch.optim, keywords).
FAMILIES: dict[str, tuple[Callable[[], Any], Any, Any, tuple[str, dict[str, Any]] | None]] = {
    "Adam": (lambda: Adam(LR), gradtx.adam(LR), optax.adam(LR), ("Adam", {})),
    "AdamW": (
        lambda: AdamW(LR, weight_decay=DECAY),
        gradtx.adamw(LR, weight_decay=DECAY),
        optax.adamw(LR, weight_decay=DECAY),
        None,
    ),
    "RMSProp": (
        lambda: RMSProp(LR, eps_in_sqrt=False),
        gradtx.rmsprop(LR, eps_in_sqrt=False),
        optax.rmsprop(LR, eps_in_sqrt=False),
        ("RMSprop", {"alpha": 0.9}),
    ),
    # The three add AdaGrad's epsilon in different places, so there is none here.
    "AdaGrad": (
        lambda: AdaGrad(LR, 0.125, 0.0),
        gradtx.adagrad(LR, 0.125, 0.0),
        optax.adagrad(LR, 0.125, 0.0),
        ("Adagrad", {"initial_accumulator_value": 0.125, "eps": 0.0}),
    ),
}
ROWS = [(family, kind) for family in FAMILIES for kind in ("gaussian", "sparse", "constant")]


def torch_updates(
    kind: str, keywords: dict[str, Any], grads: np.ndarray, checkpoints: Sequence[int]
) -> dict[int, np.ndarray]:
    """The updates of a `torch.optim` optimizer at the checkpoints, as what it writes into parameters that are zero."""
    import torch

    param = torch.zeros(grads.shape[1], requires_grad=True)
    optimizer = getattr(torch.optim, kind)([param], lr=LR, foreach=False, **keywords)
    data = torch.from_numpy(np.array(grads[: max(checkpoints)]))
    found = {}
    for t in range(1, max(checkpoints) + 1):
        param.detach().zero_()
        param.grad = data[t - 1]
        optimizer.step()
        if t in checkpoints:
            found[t] = param.detach().numpy().copy()
    return found


def has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=64, help="elements, over which the median is taken")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    checkpoints = tuple(t for t in sweeps.CHECKPOINTS if t <= options.steps)
    params = np.random.default_rng(options.seed + 1).standard_normal(options.size).astype(np.float32)
    with_torch = has_torch()
    started = time.perf_counter()
    rows = []
    for family, kind in ROWS:
        oracle, ours, theirs, torch_kind = FAMILIES[family]
        grads = sweeps.gradients(kind, max(checkpoints), options.size, options.seed)
        exact = sweeps.exact_updates(oracle(), grads, params, checkpoints)
        found = {
            "gradtx": sweeps.compiled_updates(ours, grads, params, checkpoints, as_argument=True),
            "optax": sweeps.compiled_updates(theirs, grads, params, checkpoints),
        }
        if with_torch and torch_kind is not None:
            found["torch"] = torch_updates(*torch_kind, grads, checkpoints)
        for library, updates in found.items():
            errors = sweeps.errors(updates, exact)
            rows.append([f"{family}, {kind}", library, *(f"{errors[t]:.2f}" for t in checkpoints)])
            print(*rows[-1], file=sys.stderr, flush=True)
    print(f"Median error of the update in float32 ULP ({options.size} elements; those that do not move left out).\n")
    print(common.table(["optimizer, gradients", "library", *(f"t = {t:,}" for t in checkpoints)], rows))
    print(f"\n{common.machine(*(['torch'] if with_torch else []))}; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
