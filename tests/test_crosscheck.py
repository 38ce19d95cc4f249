"""Against other implementations: Optax on every row that it has, the oracles on every row, torch where it agrees."""

import contextlib
import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ORACLES
from zoo import BY_NAME, OPTIMIZERS, PRIMITIVES, ZOO

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

STEPS = 200


@contextlib.contextmanager
def relaxed():
    """Optax's own code needs implicit promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    matrix: Any
    bias: Any


@chex.dataclass
class Head:
    scale: Any
    nothing: Any = None


def tree(name, *, real=jnp.float32, half=jnp.bfloat16, imaginary=jnp.complex64):
    """Parameters of every kind: scalars, empty arrays, 16 bits, complex, None, and every kind of container."""
    if BY_NAME[name].no_complex:
        imaginary = real
    rng = np.random.default_rng(0)

    def draw(shape, dtype):
        x = rng.standard_normal(shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = x + 1j * rng.standard_normal(shape)
        return jnp.asarray(x).astype(dtype)

    return {
        "layers": (Layer(draw((3, 4), real), draw((4,), half)), [Layer(draw((4, 2), half), None)]),
        "head": Head(scale=draw((), real)),
        "empty": {"none": {}, "rows": draw((0, 3), real)},
        "phase": draw((5,), imaginary),
        "skip": None,
    }


def gradient_series(params, steps=STEPS, seed=1):
    """Random gradients, stacked along a first axis, of scales between 0.1 and 3."""
    rng = np.random.default_rng(seed)

    def draw(p):
        x = rng.standard_normal((steps, *p.shape)) * rng.uniform(0.1, 3, p.shape)
        if jnp.iscomplexobj(p):
            x = x + 1j * rng.standard_normal((steps, *p.shape))
        return jnp.asarray(x).astype(p.dtype)

    return jax.tree.map(draw, params)


def widen(x):
    """bfloat16 to float32: Optax would otherwise keep its moments in 8 bits of mantissa."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def both(tx, reference, params, grads):
    """The updates of both at every step, on the parameters that the first one's updates lead to."""

    def run(params, state, other, grads):
        def body(carry, g):
            params, state, other = carry
            u, state = tx.update(g, state, params)
            with relaxed():
                wide = jax.tree.map(widen, (g, params))
                v, other = reference.update(wide[0], other, wide[1])
            return (gradtx.apply_updates(params, u), state, other), (u, v)

        return jax.lax.scan(body, (params, state, other), grads)[1]

    with relaxed():
        other = reference.init(jax.tree.map(widen, params))
    return samples.cheap_jit(run)(params, tx.init(params), other, grads)


def assert_same(found, expected, *, tolerance):
    """Leaf by leaf and step by step, to a share of the largest update of that leaf."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(found)[0]]
    for path, a, b in zip(paths, jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        # A bfloat16 update is rounded once.
        share = max(tolerance, 2.0**-8 if a.dtype == jnp.bfloat16 else 0)
        a, b = (np.asarray(x).astype(np.complex128) for x in (a, b))
        size = np.abs(b).max(initial=0)
        np.testing.assert_array_less(np.abs(a - b), share * size + 1e-300, err_msg=path)


# Optax

WITH_OPTAX = [r.name for r in ZOO if r.optax is not None]
STORAGE = {"accumulator_dtype", "mu_dtype", "ns_dtype", "dtype_momentum", "state_dtype"}
OURS = {("sgd_ema", "nesterov")}


@pytest.mark.parametrize("name", [r.name for r in OPTIMIZERS if r.optax is not None])
def test_optax_on_every_kind_of_leaf(name):
    row, params = BY_NAME[name], tree(name)
    updates = both(row.build(), row.build_optax(), params, gradient_series(params))
    assert_same(*updates, tolerance=2e-4)


@pytest.mark.parametrize("name", WITH_OPTAX)
@pytest.mark.usefixtures("x64")
def test_optax_in_float64(name):
    row, params = BY_NAME[name], tree(name, real=jnp.float64, half=jnp.float64, imaginary=jnp.complex128)
    updates = both(row.build(), row.build_optax(), params, gradient_series(params))
    assert_same(*updates, tolerance=1e-12)


def arguments_for_optax():
    """Every argument of a primitive, and those of an optimizer that change its chain; the oracles have the others."""
    for r in ZOO:
        for argument in r.arguments:
            flag = argument.startswith("bias_correction") or argument in {"centered", "nesterov", "eps_in_sqrt"}
            chosen = r in PRIMITIVES or flag or argument.endswith("mask")
            if r.optax is not None and chosen and argument not in STORAGE and (r.name, argument) not in OURS:
                yield pytest.param(r.name, argument, id=f"{r.name}-{argument}")


@pytest.mark.parametrize(("name", "argument"), list(arguments_for_optax()))
@pytest.mark.usefixtures("x64")
def test_optax_with_every_argument(name, argument):
    """Changed in turn, with what it needs, in float64."""
    row = BY_NAME[name]
    value = row.arguments[argument]
    reference_value = value
    if argument == "mask" and row.name == "decoupled_weight_decay":  # a predicate of ours; Optax takes a function
        reference_value = lambda params: {k: k.endswith("matrix") for k in params}  # noqa: E731
    rng = np.random.default_rng(3)
    params = {"matrix": jnp.asarray(rng.standard_normal((2, 3))), "bias": jnp.asarray(rng.standard_normal(3))}
    needs = row.needs.get(argument, {})
    updates = both(
        row.build(**needs, **{argument: value}),
        row.build_optax(**needs, **{argument: reference_value}),
        params,
        gradient_series(params, 50),
    )
    # At the first step the corrected variance is rounding noise in Optax, beside an eps of 1e-4 or 1e-8.
    noisy = row.name.startswith("rmsprop") and argument in {"centered", "bias_correction"}
    assert_same(*updates, tolerance=1e-9 if noisy else 1e-12)


@pytest.mark.parametrize(
    ("name", "argument"), [("sgd_momentum", "accumulator_dtype"), ("adam", "mu_dtype"), ("adamw", "mu_dtype")]
)
def test_optax_with_a_16_bit_first_moment(name, argument):
    """Rounded to bfloat16 at every step, so the comparison is to a few of its last places (2**-8)."""
    row, params = BY_NAME[name], {"w": jnp.ones((64,))}
    updates = both(
        row.build(**{argument: "bfloat16"}), row.build_optax(**{argument: "bfloat16"}), params, gradient_series(params)
    )
    assert_same(*updates, tolerance=0.02)


# Float64 oracles: also for what Optax has not


@samples.cheap_jit
def series(tx, state, grads, at):
    """The updates on a series of gradients and parameters; the numbers of an optimizer share a program."""
    return jax.lax.scan(lambda s, x: tx.update(x[0], s, x[1])[::-1], state, (grads, at))[1]


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        pytest.param(r.name, a, id=f"{r.name}-{a}")
        for r in OPTIMIZERS
        for a in [None, *r.arguments]
        if a not in STORAGE and not (a or "").endswith("mask")
    ],
)
@pytest.mark.usefixtures("x64")
def test_oracle(name, argument):
    row = BY_NAME[name]
    changes = {} if argument is None else {**row.needs.get(argument, {}), argument: row.arguments[argument]}
    params = jnp.asarray(np.random.default_rng(3).standard_normal(row.shape))
    grads = gradient_series(params, 50)
    tx, oracle = row.build(**changes), ORACLES[name](**{**row.base, **changes})
    steps = jnp.arange(50.0).reshape(-1, *[1] * params.ndim)
    at = params[None] - (0.1 * steps * grads if row.walks else 0 * grads)
    found = series(tx, tx.init(params), grads, at)
    expected = np.stack([oracle.update(np.asarray(g), np.asarray(p)) for g, p in zip(grads, at)])
    assert_same(found, expected, tolerance=1e-12)


# Properties

SHAPES = [(), (0,), (3,), (2, 1, 2)]
rate = st.floats(1e-4, 1.0)
decay = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.999, 0.99999]), st.floats(0.0, 0.9999))
epsilon = st.sampled_from([1e-12, 1e-8, 1e-3, 1.0])
HYPERPARAMETERS = {
    "sgd_momentum": {"learning_rate": rate, "momentum": decay, "nesterov": st.booleans()},
    "ema": {"decay": decay, "debias": st.booleans()},
    "adagrad": {"learning_rate": rate, "initial_accumulator_value": st.floats(0.0, 1.0), "eps": epsilon},
    "rmsprop": {
        "learning_rate": rate,
        "decay": decay,
        "eps": epsilon,
        "initial_scale": st.floats(0.0, 1.0),
        "eps_in_sqrt": st.booleans(),
        "momentum": st.one_of(st.none(), decay),
        "bias_correction": st.booleans(),
    },
    "adam": {
        "learning_rate": rate,
        "b1": decay,
        "b2": decay,
        "eps": epsilon,
        "eps_root": st.one_of(st.just(0.0), epsilon),
        "nesterov": st.booleans(),
    },
    "adamw": {"learning_rate": rate, "b1": decay, "b2": decay, "weight_decay": st.floats(0.0, 1.0)},
    "adam_l2": {"learning_rate": rate, "l2": st.floats(0.0, 1.0)},
}


@pytest.mark.parametrize("name", HYPERPARAMETERS)
@settings(max_examples=6)
@given(data=st.data())
def test_any_hyperparameters_shape_and_dtype(name, data):
    """In float64 and complex128 as Optax; in float32 within its rounding of that."""
    row = BY_NAME[name]
    keywords = {k: data.draw(v, label=k) for k, v in HYPERPARAMETERS[name].items()}
    shape, is_complex = data.draw(st.sampled_from(SHAPES)), data.draw(st.booleans())
    steps, seed = 4, data.draw(st.integers(0, 100))
    with jax.enable_x64(True):
        params = jnp.full(shape, 0.5, jnp.complex128 if is_complex else jnp.float64)
        grads = gradient_series(params, steps, seed)
        reference = row.build_optax(**keywords)
        exact, at = [], reference.init(params)
        for g in grads:
            with relaxed():
                u, at = reference.update(g, at, params)
            exact.append(u)
        exact = jnp.stack(exact)
    # Optax computes 1 - b**t, which for b near 1 loses 1 / (1-b) of its 2**-53.
    for x64, tolerance in [(True, 1e-10), (False, 2e-5)]:
        with jax.enable_x64(x64):
            dtype = f"{'c' if is_complex else 'f'}{(4 + 4 * x64) * (1 + is_complex)}"
            p, gs = (jnp.asarray(np.asarray(x).astype(dtype)) for x in (params, grads))
            tx = row.build(**keywords)
            found, state = [], tx.init(p)
            for g in gs:
                u, state = tx.update(g, state, p)
                assert u.dtype == p.dtype
                found.append(u)
            assert_same(jnp.stack(found), exact, tolerance=tolerance)


# PyTorch


def torch_like(sum_of_squares, learning_rate, eps):
    """torch's AdaGrad adds its eps outside the root."""
    return gradtx.chain(
        gradtx.sum_of_squares(sum_of_squares), gradtx.scale_by_rms(eps), gradtx.scale_by_learning_rate(learning_rate)
    )


def inverse_time(count):
    return 0.1 / (1 + 0.01 * jnp.asarray(count, jnp.float64))


def torch_amsgrad(learning_rate, b1, b2, eps):
    """torch's AMSGrad corrects the bias of the largest raw moment."""
    return gradtx.chain(
        gradtx.ema_first_moment(b1),
        gradtx.ema_second_moment(b2),
        gradtx.running_max(),
        gradtx.bias_correction(),
        gradtx.scale_by_rms(eps),
        gradtx.scale_by_learning_rate(learning_rate),
    )


# name: (torch.optim's class, its keywords, the same in gradtx)
TORCH = {
    "sgd": ("SGD", {"lr": 0.1}, lambda: gradtx.sgd(0.1)),
    "sgd_momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}, lambda: gradtx.sgd(0.1, 0.9)),
    "sgd_nesterov": (
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        lambda: gradtx.sgd(0.1, 0.9, nesterov=True),
    ),
    "sgd_l2": (
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        lambda: gradtx.chain(gradtx.add_decayed_weights(0.1), gradtx.sgd(0.1, 0.9)),
    ),
    "adam": ("Adam", {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-3}, lambda: gradtx.adam(0.1, 0.8, 0.99, 1e-3)),
    "adam_l2": (
        "Adam",
        {"lr": 0.1, "weight_decay": 0.1},
        lambda: gradtx.chain(gradtx.add_decayed_weights(0.1), gradtx.adam(0.1)),
    ),
    "adamw": ("AdamW", {"lr": 0.1, "weight_decay": 0.1}, lambda: gradtx.adamw(0.1, weight_decay=0.1)),
    "amsgrad": (
        "Adam",
        {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-3, "amsgrad": True},
        lambda: torch_amsgrad(0.1, 0.8, 0.99, 1e-3),
    ),
    "radam": ("RAdam", {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-30}, lambda: gradtx.radam(0.1, 0.8, 0.99, 1e-30)),
    "adamax": ("Adamax", {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-3}, lambda: gradtx.adamax(0.1, 0.8, 0.99, 1e-3)),
    "rmsprop": (
        "RMSprop",
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-3},
        lambda: gradtx.rmsprop(0.1, 0.9, 1e-3, eps_in_sqrt=False),
    ),
    "rmsprop_centered": (
        "RMSprop",
        {"lr": 0.1, "alpha": 0.9, "centered": True, "eps": 1e-3},
        lambda: gradtx.rmsprop(0.1, 0.9, 1e-3, eps_in_sqrt=False, centered=True),
    ),
    "rmsprop_momentum": (
        "RMSprop",
        {"lr": 0.1, "alpha": 0.9, "momentum": 0.5},
        lambda: gradtx.rmsprop(0.1, 0.9, eps_in_sqrt=False, momentum=0.5),
    ),
    "adagrad": (
        "Adagrad",
        {"lr": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-3},
        lambda: torch_like(0.1, 0.1, 1e-3),
    ),
    "adadelta": ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3}, lambda: gradtx.adadelta(0.5, 0.8, 1e-3)),
    "rprop": ("Rprop", {"lr": 0.1, "etas": (0.4, 1.3)}, lambda: gradtx.rprop(0.1, 0.4, 1.3)),
    "adagrad_lr_decay": (
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.01},
        lambda: torch_like(0.0, inverse_time, 1e-10),
    ),
}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.usefixtures("x64")
def test_torch_in_float64(name):
    """Parameters after every one of 200 steps with the same gradients."""
    torch = pytest.importorskip("torch")
    kind, keywords, build = TORCH[name]
    rng = np.random.default_rng(5)
    start, grads = rng.standard_normal((3, 4)), rng.standard_normal((STEPS, 3, 4)) * rng.uniform(0.1, 3, (3, 4))

    theirs = torch.tensor(start, requires_grad=True)
    optimizer = getattr(torch.optim, kind)([theirs], **keywords)
    expected = []
    for g in grads:
        theirs.grad = torch.tensor(g)
        optimizer.step()
        expected.append(theirs.detach().numpy().copy())

    tx = build()

    def body(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = gradtx.apply_updates(params, updates)
        return (params, state), params

    params = jnp.asarray(start)
    _, found = samples.cheap_jit(lambda c, g: jax.lax.scan(body, c, g))((params, tx.init(params)), jnp.asarray(grads))
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-12 * np.abs(expected).max())
