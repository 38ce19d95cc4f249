"""Everything of Optax's own, around a chain and inside one: training goes on, and the loss goes down."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

TARGET = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.5, -1.0])}
START = jax.tree.map(lambda t: t + 1.0, TARGET)


def loss(params):
    return sum(jnp.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(TARGET), strict=True))


def grad_fn(params, i=0):
    return jax.grad(loss)(params)


def train(tx, steps=20, **keywords):
    """The loss after some steps, over the loss before."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # Optax's code is not strict
        params, state = START, tx.init(START)
        extra = keywords if isinstance(tx, optax.GradientTransformationExtraArgs) else {}

        @jax.jit
        def step(params, state):
            value, grads = jax.value_and_grad(loss)(params)
            given = {**extra, **({"value": value} if extra.get("value") is not None else {})}
            updates, state = tx.update(grads, state, params, **given)
            return optax.apply_updates(params, updates), state

        for _ in range(steps):
            params, state = step(params, state)
        return float(loss(params) / loss(START))


def labels(params):
    return {"w": "a", "b": "b"}


AROUND = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "named_chain": lambda tx: optax.named_chain(("clip", optax.clip(1.0)), ("adam", tx)),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 2),
    "masked": lambda tx: optax.masked(tx, lambda p: jax.tree.map(lambda _: True, p)),
    "partition": lambda tx: optax.partition({"a": tx, "b": optax.sgd(0.1)}, labels),
    "selective": lambda tx: optax.selective_transform(tx, freeze_mask={"w": False, "b": True}),
    "flatten": lambda tx: optax.flatten(tx),
    "inject": lambda tx: optax.inject_hyperparams(gradtx.adam, hyperparam_dtype=jnp.float32)(0.1),
    "conditionally_transform": lambda tx: optax.chain(
        tx, optax.conditionally_transform(optax.scale(0.5), lambda step: step > 3)
    ),
    "mechanize": lambda tx: optax.contrib.mechanize(tx),
    "split_real_and_imaginary": lambda tx: optax.contrib.split_real_and_imaginary(tx),
    "schedule_free": lambda tx: optax.contrib.schedule_free(tx, 0.1),
    "sam": lambda tx: optax.contrib.sam(tx, optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), 2),
}


@pytest.mark.parametrize("name", AROUND)
def test_optax_around_a_chain(name):
    assert train(AROUND[name](gradtx.adam(0.1)), 40) < 0.9


contrib = optax.contrib
INSIDE = {
    "acprop": lambda: contrib.acprop(0.1),
    "ademamix": lambda: contrib.ademamix(0.1),
    "simplified_ademamix": lambda: contrib.simplified_ademamix(0.01),
    "adopt": lambda: contrib.adopt(0.1),
    "cocob": lambda: contrib.cocob(),
    "dadapt_adamw": lambda: contrib.dadapt_adamw(1.0, estim_lr0=1e-2),
    "dog": lambda: contrib.dog(1.0),
    "dowg": lambda: contrib.dowg(1.0),
    "madgrad": lambda: contrib.madgrad(0.1),
    "momo": lambda: contrib.momo(0.1),
    "momo_adam": lambda: contrib.momo_adam(0.1),
    "muon": lambda: contrib.muon(0.1),
    "prodigy": lambda: contrib.prodigy(estim_lr0=1e-2),
    "sophia": lambda: contrib.sophia(0.1),
    "schedule_free_adamw": lambda: contrib.schedule_free_adamw(0.1),
    "reduce_on_plateau": lambda: optax.chain(optax.adam(0.1), contrib.reduce_on_plateau(accumulation_size=2)),
    "adam": lambda: optax.adam(0.1),
    "adamw": lambda: optax.adamw(0.1),
    "lion": lambda: optax.lion(0.05),
    "sgd with a schedule": lambda: optax.sgd(optax.schedules.cosine_decay_schedule(0.1, 40)),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.1), 2),
    "masked": lambda: optax.chain(optax.masked(optax.scale(0.5), lambda p: {"w": True, "b": False}), optax.sgd(0.1)),
    "partition": lambda: optax.partition({"a": optax.adam(0.1), "b": optax.sgd(0.1)}, labels),
    "flatten": lambda: optax.flatten(optax.adam(0.1)),
    "inject": lambda: optax.inject_hyperparams(optax.adam)(0.1),
}
KEYWORDS = {"value": 0.0, "obj_fn": loss}


@pytest.mark.parametrize("name", INSIDE)
def test_optax_inside_a_chain(name):
    assert (
        train(gradtx.chain(gradtx.clip(10.0), INSIDE[name](), gradtx.scale(1.0)), 40, **KEYWORDS) < 0.97
    )  # dog starts slowly


@pytest.mark.parametrize(
    "project", [optax.projections.projection_non_negative, lambda p: optax.projections.projection_l2_ball(p, 2.0)]
)
def test_projections_after_a_step(project):
    tx = gradtx.adam(0.1)
    params, state = START, tx.init(START)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for _ in range(20):
            params, state = gradtx.step(tx, params, state, grad_fn(params), donate=False)
            params = project(params)
    assert loss(params) < loss(START)


def test_losses_and_schedules():
    schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, 0.3, 5, 60)
    tx = gradtx.adamw(schedule)
    x, y = jnp.eye(4), jnp.arange(4)
    params, state = jnp.zeros((4, 4)), tx.init(jnp.zeros((4, 4)))
    objective = lambda w: optax.losses.softmax_cross_entropy_with_integer_labels(x @ w, y).mean()  # noqa: E731
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        start = objective(params)
        for _ in range(60):
            params, state = gradtx.step(tx, params, state, jax.grad(objective)(params), donate=False)
        assert objective(params) < 0.2 * start


def test_dpsgd_in_front_in_optax():
    """Its gradients have an axis of examples, which only Optax's own chain passes on."""
    aggregate = contrib.differentially_private_aggregate(1.0, 0.1, 0)
    tx = optax.chain(aggregate, gradtx.sgd(0.1))
    params, state = START, tx.init(START)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for _ in range(30):
            grads = jax.tree.map(lambda g: jnp.stack([g] * 4), grad_fn(params))
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
    assert loss(params) < loss(START)
