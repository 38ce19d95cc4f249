"""The table of schedulers in docs/coming_from_pytorch.md, against PyTorch's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradtx import schedules

pytestmark = pytest.mark.usefixtures("quick_compilation")

torch = pytest.importorskip("torch")
lr_scheduler = torch.optim.lr_scheduler

STEPS, RATE = 24, 0.1
ROWS = {
    "StepLR": (
        lambda o: lr_scheduler.StepLR(o, step_size=5, gamma=0.3),
        schedules.exponential_decay(RATE, 5, 0.3, staircase=True),
    ),
    "MultiStepLR": (
        lambda o: lr_scheduler.MultiStepLR(o, milestones=[4, 9], gamma=0.2),
        schedules.piecewise_constant_schedule(RATE, {4: 0.2, 9: 0.2}),
    ),
    "ExponentialLR": (lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9), schedules.exponential_decay(RATE, 1, 0.9)),
    "CosineAnnealingLR": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS, eta_min=0.01),
        schedules.cosine_decay_schedule(RATE, STEPS, alpha=0.01 / RATE),
    ),
    "CosineAnnealingWarmRestarts": (
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=8),
        schedules.join_schedules([schedules.cosine_decay_schedule(RATE, 8)] * 3, [8, 16]),
    ),
    "LinearLR": (
        lambda o: lr_scheduler.LinearLR(o, start_factor=0.25, total_iters=10),
        schedules.linear_schedule(0.25 * RATE, RATE, 10),
    ),
    "PolynomialLR": (
        lambda o: lr_scheduler.PolynomialLR(o, total_iters=15, power=2.0),
        schedules.polynomial_schedule(RATE, 0.0, 2.0, 15),
    ),
    "SequentialLR": (
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1, total_iters=6), lr_scheduler.ExponentialLR(o, 0.8)], milestones=[6]
        ),
        schedules.join_schedules(
            [schedules.linear_schedule(0.1 * RATE, RATE, 6), schedules.exponential_decay(RATE, 1, 0.8)], [6]
        ),
    ),
    "LambdaLR": (lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)), lambda step: RATE / (1 + step)),
}


def rates_of_torch(make, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str):
    make, ours = ROWS[name]
    np.testing.assert_allclose(
        [float(ours(t)) for t in range(STEPS)], rates_of_torch(make, STEPS), rtol=1e-5, atol=1e-9
    )


def test_one_cycle():
    """The same curve; PyTorch's peak and end come a step earlier."""
    theirs = rates_of_torch(lambda o: lr_scheduler.OneCycleLR(o, max_lr=RATE, total_steps=1000), 999)
    ours = np.asarray(jax.vmap(schedules.cosine_onecycle_schedule(1000, RATE))(jnp.arange(999)))
    np.testing.assert_allclose(ours, theirs, atol=RATE * np.pi / 2 / 300)  # what a step is worth where it is steepest
    assert np.argmax(theirs) == 299
    assert np.argmax(ours) == 300
