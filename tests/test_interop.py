"""A run that moves from PyTorch or Optax to gradtx goes on as it would have there, and back."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import samples

import gradtx
from gradtx import interop, schedules

pytestmark = pytest.mark.usefixtures("quick_compilation")

BEFORE, AFTER = 50, 100
SHAPES = {"dense": {"kernel": (3, 4), "bias": (4,)}, "scale": ()}
PATHS = ["dense/bias", "dense/kernel", "scale"]  # in the order of JAX's leaves
TORCH_ORDER = ["dense/kernel", "dense/bias", "scale"]
AXES = {"**/kernel": (1, 0)}
DTYPES = [np.float64, np.float32]


def start(dtype):
    rng = np.random.default_rng(0)
    return {
        "dense": {"bias": rng.normal(size=4).astype(dtype), "kernel": rng.normal(size=(3, 4)).astype(dtype)},
        "scale": rng.normal(size=()).astype(dtype),
    }


def gradients(steps, dtype, seed=1):
    """Gradients that do not depend on the parameters: each library's rounding then stays its own."""
    rng = np.random.default_rng(seed)
    like = start(dtype)
    return [jax.tree.map(lambda p: np.asarray(rng.normal(size=p.shape) + 0.3, dtype), like) for _ in range(steps)]


@pytest.fixture(params=DTYPES, ids=lambda d: np.dtype(d).name)
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield request.param


def close(got, expected, dtype, what="", *, times=1):
    """Float64: 1e-12 relative to the size of the leaf; float32: what 100 steps of rounding may add up to."""
    rtol = (1e-12 if np.dtype(dtype) == np.float64 else 4e-6) * times
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(), err_msg=f"{what} {path}")


@functools.partial(samples.cheap_jit, static_argnums=0)
def many_steps(tx, carry, grads):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, carry, grads)[0]


def run(tx, params, state, grads):
    stacked = jax.tree.map(lambda *x: np.stack(x), *grads)
    with jax.numpy_dtype_promotion("standard"):  # Optax is not written for strict promotion
        return many_steps(tx, (jax.tree.map(jnp.asarray, params), state), stacked)


# ---- Optax ----

SCHEDULE = schedules.linear_schedule(1e-2, 1e-3, 200)  # in both: Optax's own is computed in float32
WARMUP = schedules.linear_schedule(0.1, 1.0, 100)
DECAYS = schedules.linear_schedule(0.5, 0.95, 80)
MASK = {"dense": {"kernel": True, "bias": False}, "scale": True}


def optax_adan(learning_rate, b2=0.92, weight_decay=0.0):
    """Optax's Adan looks another way ahead than the paper's."""
    tx = gradtx.adan(learning_rate, b2=b2, weight_decay=weight_decay)
    return gradtx.chain(*(gradtx.nesterov_difference(b2, 1.0 - b2) if "nesterov" in repr(s) else s for s in tx.stages))


OPTAX = {
    "adam": (optax.adam(1e-2), gradtx.adam(1e-2)),
    "adamw": (optax.adamw(1e-2, weight_decay=0.1, mask=MASK), gradtx.adamw(1e-2, weight_decay=0.1, mask=MASK)),
    "adam_schedule": (optax.adam(SCHEDULE), gradtx.adam(SCHEDULE)),
    "nadam": (optax.nadam(1e-2), gradtx.nadam(1e-2)),
    "nadamw": (optax.nadamw(1e-2, weight_decay=0.1), gradtx.nadamw(1e-2, weight_decay=0.1)),
    "amsgrad": (optax.amsgrad(1e-2), gradtx.amsgrad(1e-2)),
    "sgd": (optax.sgd(1e-2), gradtx.sgd(1e-2)),
    "momentum": (optax.sgd(1e-2, 0.9), gradtx.sgd(1e-2, 0.9)),
    "nesterov": (optax.sgd(1e-2, 0.9, nesterov=True), gradtx.sgd(1e-2, 0.9, nesterov=True)),
    "rmsprop": (optax.rmsprop(1e-2, initial_scale=0.5), gradtx.rmsprop(1e-2, initial_scale=0.5)),
    "rmsprop_corrected": (optax.rmsprop(1e-2, bias_correction=True), gradtx.rmsprop(1e-2, bias_correction=True)),
    "rmsprop_centered": (
        optax.rmsprop(1e-2, centered=True, momentum=0.8),
        gradtx.rmsprop(1e-2, centered=True, momentum=0.8),
    ),
    "adagrad": (optax.adagrad(1e-2), gradtx.adagrad(1e-2)),
    "adadelta": (optax.adadelta(1.0), gradtx.adadelta(1.0)),
    "lion": (optax.lion(1e-3), gradtx.lion(1e-3)),
    "signum": (optax.chain(optax.ema(0.9, debias=False), optax.sign_sgd(1e-3)), gradtx.signum(1e-3)),
    "lars": (optax.lars(1e-2, momentum=0.9), gradtx.lars(1e-2, momentum=0.9)),
    "lamb": (optax.lamb(1e-2), gradtx.lamb(1e-2)),
    "optimistic": (
        optax.optimistic_gradient_descent(1e-2, 1.0, 0.5),
        gradtx.optimistic_gradient_descent(1e-2, 1.0, 0.5),
    ),
    "two": (
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2), optax.ema(0.9, debias=False), optax.trace(0.5)),
        gradtx.chain(
            gradtx.clip_by_global_norm(1.0),
            gradtx.adam(1e-2),
            gradtx.scope(gradtx.ema_first_moment(0.9)),
            gradtx.scope(gradtx.trace(0.5)),
        ),
    ),
    "groups": (
        optax.partition(
            {"matrix": optax.adam(1e-2), "rest": optax.sgd(1e-2, 0.9)},
            {"dense": {"kernel": "matrix", "bias": "rest"}, "scale": "rest"},
        ),
        gradtx.by_path({"**/kernel": gradtx.adam(1e-2), "**": gradtx.sgd(1e-2, 0.9)}),
    ),
    "radam": (optax.radam(1e-2), gradtx.radam(1e-2)),
    "adamax": (optax.adamaxw(1e-2, weight_decay=0.1), gradtx.adamaxw(1e-2, weight_decay=0.1)),
    "yogi": (optax.yogi(1e-2), gradtx.yogi(1e-2)),
    "adabelief": (optax.adabelief(1e-2), gradtx.adabelief(1e-2)),
    "novograd": (optax.novograd(1e-2, weight_decay=0.1), gradtx.novograd(1e-2, weight_decay=0.1)),
    "muon": (optax.contrib.muon(1e-2), gradtx.muon(1e-2)),
    "adan": (optax.adan(1e-2, weight_decay=0.1), optax_adan(1e-2, weight_decay=0.1)),
    "sm3": (optax.sm3(1e-1), gradtx.sm3(1e-1)),
    "sm3_average": (
        optax.chain(optax.scale_by_sm3(b2=0.99), optax.scale(-0.1)),
        gradtx.chain(gradtx.scale_by_sm3(b2=0.99), gradtx.scale(-0.1)),
    ),
    "prodigy": (
        optax.contrib.prodigy(0.5, estim_lr0=1e-2, weight_decay=0.1),
        gradtx.prodigy(0.5, estim_lr0=1e-2, weight_decay=0.1),
    ),
    "prodigy_warmup": (
        optax.contrib.prodigy(WARMUP, estim_lr0=1e-2, estim_lr_coef=2.0, safeguard_warmup=True),
        gradtx.prodigy(WARMUP, estim_lr0=1e-2, estim_lr_coef=2.0, safeguard_warmup=True),
    ),
    "accumulated": (optax.MultiSteps(optax.adam(1e-2), 4), gradtx.accumulate_gradients(gradtx.adam(1e-2), 4)),
    "scheduled_decay": (
        optax.inject_hyperparams(optax.sgd)(1e-2, momentum=DECAYS),
        gradtx.sgd(1e-2, DECAYS),
    ),
}


# How much more than rounding: Optax's float32 weights `1 - b**t`, which enter the largest corrected moment, are off by
# 1e-5, as is its RAdam's rectification; Newton-Schulz steps and small differences enlarge what goes in, and Prodigy's sums grow with its estimate.
LOOSER = {"amsgrad": 10, "radam": 30, "muon": 100, "adabelief": 10, "adan": 10, "prodigy": 10, "prodigy_warmup": 100}
NO_SCALARS = {"sm3", "sm3_average"}  # Optax's has no covers for them
IN_FLOAT32 = {"accumulated"}  # where Optax gathers gradients in float32, for float64 parameters too


def looser(name, dtype):
    return 1e5 if name in IN_FLOAT32 and dtype is np.float64 else LOOSER.get(name, 1)


@pytest.mark.parametrize("name", OPTAX)
def test_from_optax_and_back(name, dtype):
    theirs, ours = OPTAX[name]
    first, *grads = [start(dtype), *gradients(BEFORE + AFTER, dtype)]
    if name in NO_SCALARS:
        first, *grads = [{"dense": tree["dense"]} for tree in (first, *grads)]
    params, state = run(theirs, first, theirs.init(jax.tree.map(jnp.asarray, first)), grads[:BEFORE])
    moved = interop.from_optax(ours, state, params, count=None if name == "accumulated" else BEFORE)
    template = ours.init(params)
    assert jax.tree.structure(moved) == jax.tree.structure(template)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), moved) == jax.tree.map(lambda x: (x.shape, x.dtype), template)

    there, state_there = run(theirs, params, state, grads[BEFORE:])
    here, state_here = run(ours, params, moved, grads[BEFORE:])
    close(here, there, dtype, "parameters", times=looser(name, dtype))

    injected = isinstance(state, optax.InjectStatefulHyperparamsState)
    back = interop.to_optax(ours, state_here, here, like=state_there if injected else theirs)
    assert jax.tree.structure(back) == jax.tree.structure(state_there)
    close(back, state_there, dtype, "the state", times=looser(name, dtype))
    at_once = interop.to_optax(ours, moved, params, like=state if injected else theirs)
    close(at_once, state, dtype, "the state moved at once", times=looser(name, dtype))


# ---- PyTorch ----

TORCH = {
    "adam": ("Adam", {"lr": 1e-2, "eps": 1e-6}),
    "adam_l2": ("Adam", {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.99)}),
    "adam_maximize": ("Adam", {"lr": 1e-2, "maximize": True}),
    "adamw": ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
    "amsgrad": ("Adam", {"lr": 1e-2, "amsgrad": True}),
    "sgd": ("SGD", {"lr": 1e-2}),
    "momentum": ("SGD", {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": ("SGD", {"lr": 1e-2, "momentum": 0.9, "nesterov": True}),
    "dampening": ("SGD", {"lr": 1e-2, "momentum": 0.9, "dampening": 0.3, "maximize": True}),
    "rmsprop": ("RMSprop", {"lr": 1e-2}),
    "rmsprop_all": ("RMSprop", {"lr": 1e-2, "centered": True, "momentum": 0.8, "alpha": 0.9, "weight_decay": 0.1}),
    "adagrad": ("Adagrad", {"lr": 1e-1}),
    "adagrad_decay": ("Adagrad", {"lr": 1e-1, "lr_decay": 1e-2, "initial_accumulator_value": 0.1}),
    "adadelta": ("Adadelta", {"lr": 1.0}),
    "rprop": ("Rprop", {"lr": 1e-2}),
    "adamax": ("Adamax", {"lr": 1e-2, "weight_decay": 0.1}),
    "nadam": ("NAdam", {"lr": 1e-2}),
    "nadam_l2": ("NAdam", {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.99), "momentum_decay": 0.1}),
    "nadam_decoupled": ("NAdam", {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "radam": ("RAdam", {"lr": 1e-2, "eps": 1e-3}),
    "radam_decoupled": ("RAdam", {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True}),
}


def in_torch(torch, params, cls, options, groups=None):
    """Parameters of PyTorch's with the kernel transposed, in PyTorch's order, and an optimizer of them."""
    flat = dict(zip(PATHS, jax.tree.leaves(params), strict=True))
    tensors = {path: torch.nn.Parameter(torch.from_numpy(np.array(flat[path].T, order="C"))) for path in TORCH_ORDER}
    what = groups(tensors) if groups else list(tensors.values())
    return tensors, getattr(torch.optim, cls)(what, **options)


def run_torch(torch, tensors, optimizer, grads):
    for g in grads:
        flat = dict(zip(PATHS, jax.tree.leaves(g), strict=True))
        for path, tensor in tensors.items():
            tensor.grad = torch.from_numpy(np.array(flat[path].T, order="C"))
        optimizer.step()
    flat = {path: np.array(t.detach().numpy().T) for path, t in tensors.items()}
    return {"dense": {"bias": flat["dense/bias"], "kernel": flat["dense/kernel"]}, "scale": flat["scale"]}


def states_agree(got, expected, dtype):
    assert set(got) == set(expected)
    for i, entry in expected.items():
        kept = {k: np.asarray(x) for k, x in entry.items() if x is not None}
        mine = {k: np.asarray(x) for k, x in got[i].items()}
        assert set(mine) == set(kept)
        if "prev" in kept:
            mine["prev"], kept["prev"] = np.sign(mine["prev"]), np.sign(kept["prev"])
        if "mu_product" in kept:  # float32 there, and next to nothing
            np.testing.assert_allclose(mine.pop("mu_product"), kept.pop("mu_product"), rtol=1e-4, atol=1e-12)
        close(mine, kept, dtype, f"parameter {i}")


@pytest.mark.parametrize("name", TORCH)
def test_from_torch_and_back(name, dtype):
    torch = pytest.importorskip("torch")
    cls, options = TORCH[name]
    grads = gradients(BEFORE + 2 * AFTER, dtype)
    tensors, optimizer = in_torch(torch, start(dtype), cls, options)
    params = run_torch(torch, tensors, optimizer, grads[:BEFORE])
    kept = optimizer.state_dict()
    tx = interop.transform_from_torch(optimizer)
    assert tx == interop.transform_from_torch(kept)
    where = {"names": TORCH_ORDER, "axes": AXES}
    state = interop.from_torch(tx, kept, params, count=BEFORE, **where)
    states_agree(interop.to_torch(tx, state, params, like=optimizer, **where)["state"], kept["state"], dtype)

    middle = BEFORE + AFTER
    here, state = run(tx, params, state, grads[BEFORE:middle])
    there = run_torch(torch, tensors, optimizer, grads[BEFORE:middle])
    close(here, there, dtype, "parameters")
    moved = interop.to_torch(tx, state, here, like=optimizer, **where)
    states_agree(moved["state"], optimizer.state_dict()["state"], dtype)

    tensors, second = in_torch(torch, jax.tree.map(np.asarray, here), cls, options)
    second.load_state_dict(moved)
    close(
        run_torch(torch, tensors, second, grads[middle:]),
        run(tx, here, state, grads[middle:])[0],
        dtype,
        "back in PyTorch",
    )


def test_parameter_groups_that_differ():
    torch = pytest.importorskip("torch")
    groups = lambda t: [{"params": [t["dense/kernel"]]}, {"params": [t["dense/bias"], t["scale"]], "weight_decay": 0.0}]  # noqa: E731
    grads = gradients(20, np.float32)
    tensors, optimizer = in_torch(torch, start(np.float32), "AdamW", {"lr": 1e-2, "weight_decay": 0.1}, groups)
    params = run_torch(torch, tensors, optimizer, grads[:10])
    with pytest.raises(ValueError, match="groups differ"):
        interop.transform_from_torch(optimizer)
    tx = interop.transform_from_torch(optimizer, names=TORCH_ORDER)
    state = interop.from_torch(tx, optimizer, params, names=TORCH_ORDER, axes=AXES)
    close(run(tx, params, state, grads[10:])[0], run_torch(torch, tensors, optimizer, grads[10:]), np.float32)


def adam_dict(**changes):
    """A state dict as NumPy arrays, as one may come without PyTorch."""
    entry = lambda *shape: {"step": 3.0, "exp_avg": np.ones(shape), "exp_avg_sq": np.ones(shape)}  # noqa: E731
    group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "params": [0, 1, 2]}
    group["param_names"] = ["fc.weight", "fc.bias", "scale"]
    return {"state": {0: entry(4, 3), 1: entry(4), 2: entry()}, "param_groups": [{**group, **changes}]}


def test_names_by_number_and_by_name():
    params, tx = start(np.float32), gradtx.adam(0.1)
    expected = interop.from_torch(tx, adam_dict(), params, names=TORCH_ORDER, axes=AXES)
    numbers = {"dense/kernel": 0, "dense/bias": 1, "scale": 2}
    by_name = {"dense/kernel": "fc.weight", "dense/bias": "fc.bias", "scale": "scale"}
    turn = {"**/kernel": interop.Reshape(lambda a: a.T, lambda a: a.T)}
    for names, axes in ((numbers, AXES), (by_name, AXES), (numbers, turn)):
        close(interop.from_torch(tx, adam_dict(), params, names=names, axes=axes), expected, np.float32)
    np.testing.assert_allclose(expected.stages[0]["mu"]["dense"]["bias"], 1 / (1 - 0.9**3), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": None}, r"leaf dense/kernel: expected exp_avg of shape \(3, 4\).*'fc.weight'.*has \(4, 3\).*axes="),
        ({"axes": {"**/kernel": (0, 0)}}, "leaf dense/kernel: expected a permutation of its 2 axes"),
        ({"names": TORCH_ORDER[:2]}, "expected 3 different paths"),
        ({"names": ["dense/kernel", "dense/bias", "scales"]}, "scales is no leaf"),
        ({"names": {"dense/kernel": 0, "dense/bias": 1}}, "scale is a leaf without"),
        ({"names": {"dense/kernel": 0, "dense/bias": 1, "scale": 1}}, "none for parameter 2"),
        ({"names": {"dense/kernel": 0, "dense/bias": 1, "scale": "scal"}}, "no parameter 'scal'; there are fc.weight"),
        ({"tx": gradtx.rmsprop(0.1)}, "leaf dense/bias: the chain takes"),
        ({"tx": gradtx.sgd(0.1, 0.9)}, "leaf dense/bias: Adam of PyTorch keeps nothing that trace could take"),
        (
            {"tx": gradtx.adam(0.1, 0.8)},
            "leaf dense/bias: expected ema_first_moment to have PyTorch's decay, 0.9, got 0.8",
        ),
        ({"count": 4}, "expected one number of completed steps, got 3 .* and 4"),
    ],
)
def test_what_does_not_fit_is_said(change, message):
    arguments = {"tx": gradtx.adam(0.1), "names": TORCH_ORDER, "axes": AXES, **change}
    with pytest.raises(ValueError, match=message):
        interop.from_torch(arguments.pop("tx"), adam_dict(), start(np.float32), **arguments)


def test_amsgrad_of_optax_and_of_pytorch_are_told_apart():
    source = adam_dict(amsgrad=True)
    for entry in source["state"].values():
        entry["max_exp_avg_sq"] = entry["exp_avg_sq"]
    with pytest.raises(ValueError, match="stands behind bias_correction"):
        interop.from_torch(gradtx.amsgrad(0.1), source, start(np.float32), names=TORCH_ORDER, axes=AXES)


def test_a_step_count_is_asked_for_and_wrong_states_are_named():
    params = start(np.float32)
    momentum = optax.sgd(0.1, 0.9).init(params)
    with pytest.raises(ValueError, match="holds no step count; give .* count="):
        interop.from_optax(gradtx.sgd(0.1, 0.9), momentum, params)
    with pytest.raises(ValueError, match="leaf dense/bias: .*ScaleByAdamState.* no ema_first_moment"):
        interop.from_optax(gradtx.rmsprop(0.1), optax.adam(0.1).init(params), params)
    with pytest.raises(ValueError, match="leaf dense/bias: the Optax state has nothing for ema_first_moment"):
        interop.from_optax(gradtx.adam(0.1), optax.sgd(0.1).init(params), params, count=3)
    with pytest.raises(TypeError, match="is a ScaleByRpropState"):
        interop.from_optax(gradtx.adam(0.1), optax.rprop(0.1).init(params), params)
    with pytest.raises(TypeError, match="expected a gradtx chain"):
        interop.from_optax(optax.adam(0.1), optax.adam(0.1).init(params), params)
    with pytest.raises(TypeError, match="expected one of Adam"):
        interop.transform_from_torch({"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}]})
