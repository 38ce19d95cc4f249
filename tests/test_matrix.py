"""Optimizers of matrices: stacks in one call, complex and empty matrices, extremes, layouts on devices."""

from __future__ import annotations

import collections
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers, muon

import gradtx
from gradtx._primitives.sides import merged

pytestmark = pytest.mark.usefixtures("quick_compilation")

STACK = {"**": gradtx.MuonDimensionNumbers(-2, -1)}
BUILD = {
    "muon": lambda stacked=None, **kw: gradtx.muon(0.1, muon_weight_dimension_numbers=stacked, **kw),
    "soap": lambda stacked=None, **kw: gradtx.soap(
        0.1, dimension_numbers=stacked, **{"precondition_frequency": 2, "weight_decay": 0.0, **kw}
    ),
    "kron": lambda stacked=None, **kw: gradtx.kron(0.1, dimension_numbers=stacked, **kw),
}
each = pytest.mark.parametrize("name", BUILD)
HEAVY = ("dot_general", "eigh", "qr", "householder_product", "geqrf", "triangular_solve")


def draw(shape, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        x = x + 1j * rng.standard_normal(shape)
    return jnp.asarray(x).astype(dtype)


@jax.jit
def step(tx, grads, state, params):
    """A step of a transformation that is an argument: equal ones are compiled once for all tests."""
    return tx.update(grads, state, params)


def run(tx, params, grads):
    """The update at each step."""
    state, found = tx.init(params), []
    for g in grads:
        u, state = step(tx, g, state, params)
        found.append(u)
    return found, state


def operations(jaxpr, found=None):
    """How often each operation occurs, in branches and inner functions too."""
    found = collections.Counter() if found is None else found
    for equation in jaxpr.eqns:
        found[equation.primitive.name] += 1
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    operations(inner, found)
    return found


# Stacks


@each
def test_a_stack_is_one_call(name):
    def heavy(shape):
        params, tx = {"w": jnp.ones(shape)}, BUILD[name](STACK)
        jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
        count = operations(jaxpr.jaxpr)
        return {op: count[op] for op in HEAVY if count[op]}

    assert heavy((7, 4, 3)) == heavy((2, 4, 3))
    assert heavy((7, 4, 3))


@each
def test_a_stack_is_its_matrices(name):
    grads = [draw((2, 4, 3), seed) for seed in range(5)]
    together, _ = run(BUILD[name](STACK), grads[0], grads)
    apart = [run(BUILD[name](), grads[0][i], [g[i] for g in grads])[0] for i in range(2)]
    for t, u in enumerate(together):
        expected = jnp.stack([a[t] for a in apart])
        if name == "kron":  # which clips by parameter
            u, expected = (x / jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) for x in (u, expected))
        np.testing.assert_allclose(u, expected, rtol=1e-4, atol=1e-5)


@each
def test_heads_are_columns_of_one_matrix(name):
    numbers = {"**/q": gradtx.MuonDimensionNumbers(0, (1, 2))}
    grads = [draw((4, 2, 3), seed) for seed in range(4)]
    found, _ = run(BUILD[name](numbers), {"q": grads[0]}, [{"q": g} for g in grads])
    flat = [g.reshape(4, 6) for g in grads]
    expected, _ = run(BUILD[name](), flat[0], flat)
    for u, v in zip(found, expected):
        np.testing.assert_allclose(u["q"].reshape(4, 6), v, rtol=1e-5, atol=1e-6)


@each
def test_axes_that_a_parameter_has_not(name):
    params = {"bias": jnp.ones(3)}
    with pytest.raises(ValueError, match="leaf bias"):
        BUILD[name](STACK).init(params)


def axes_by_shape(kind, but=()):
    """As a function of all parameters: matrices, several heads as one matrix, stacks of matrices; None for the others."""

    def of(path, leaf):
        if path[0].key in but or leaf.ndim < 2:
            return None
        return kind(0, 1) if leaf.ndim == 2 else kind(0, (1, 2)) if leaf.ndim == 3 else kind(2, 3)

    return lambda params: jax.tree_util.tree_map_with_path(of, params)


@pytest.mark.parametrize("keywords", [{}, {"adaptive": True, "consistent_rms": 0.2, "weight_decay": 0.1}], ids=str)
def test_dimension_numbers_as_a_function_are_those_of_optax(keywords):
    shapes = {"w": (4, 3), "q": (4, 2, 3), "b": (3,), "head": (3, 4), **({} if keywords else {"stack": (2, 2, 4, 3)})}
    params = {name: draw(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    grads = [{name: draw(shape, seed + 10 * i) for seed, (name, shape) in enumerate(shapes.items())} for i in range(3)]
    axes, theirs = (axes_by_shape(kind, ("head",)) for kind in (gradtx.MuonDimensionNumbers, MuonDimensionNumbers))
    ours = gradtx.muon(0.1, muon_weight_dimension_numbers=axes, **keywords)
    assert ours.replace(learning_rate=0.2) == gradtx.muon(0.2, muon_weight_dimension_numbers=axes, **keywords)
    optaxs = muon(0.1, muon_weight_dimension_numbers=theirs, **keywords)
    found, state = run(ours, params, grads)
    there = optaxs.init(params)
    for u, g in zip(found, grads):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            expected, there = optaxs.update(g, there, params)
        for name in shapes:
            scale = float(jnp.abs(expected[name]).max())
            np.testing.assert_allclose(u[name], expected[name], rtol=2e-4, atol=2e-5 * scale, err_msg=name)
    kept = {name: [tree[name] for tree in (s.get("nu") for s in state.stages if s) if tree] for name in shapes}
    assert {name for name, nus in kept.items() if any(isinstance(x, jax.Array) for x in nus)} == {"b", "head"}


def test_dimension_numbers_as_a_function_are_checked():
    axes = gradtx.MuonDimensionNumbers
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    for given, error, message in (
        (lambda p: {"w": axes(0, 1), "b": axes(0, 1)}, ValueError, "leaf b: MuonDimension.* names no rows and columns"),
        (lambda p: {"w": axes(0, 1)}, ValueError, "expected a tree like the parameters, or a prefix of it"),
        (lambda p: {"w": axes(0, 1), "b": 2}, TypeError, "b: expected MuonDimensionNumbers"),
    ):
        with pytest.raises(error, match=message):
            gradtx.muon(0.1, muon_weight_dimension_numbers=given).init(params)
    # Of paths that are left to AdamW the function may say what it likes; a prefix of the tree will do.
    tx = gradtx.muon(0.1, muon_weight_dimension_numbers=lambda p: {"w": axes(), "b": axes()}, adam_paths=("b",))
    nus = [entry["nu"] for entry in tx.init(params).stages if "nu" in entry]
    assert [[name for name, x in nu.items() if isinstance(x, jax.Array)] for nu in nus] == [["b"]]
    nested = {"blocks": [params["w"], params["w"] + 1.0], "b": params["b"]}
    prefix = gradtx.muon(0.1, muon_weight_dimension_numbers=lambda p: {"blocks": axes(0, 1), "b": None})
    (found,), _ = run(prefix, nested, [nested])
    (expected,), _ = run(gradtx.muon(0.1), nested, [nested])
    np.testing.assert_array_equal(found["blocks"][1], expected["blocks"][1])


def test_the_first_pattern_that_matches_counts():
    table = {"z/**": None, "**": gradtx.MuonDimensionNumbers(-2, -1)}
    params = {"z": {"w": jnp.ones((2, 3))}, "a": jnp.ones((2, 3))}
    left = gradtx.soap(dimension_numbers=table).init(params).stages[1]["left"]
    assert not jax.tree.leaves(left["z"])
    assert left["a"].shape == (1, 2, 2)


# SOAP


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (5,), ()])
def test_soap_without_a_basis_is_adamw(shape):
    grads = [draw(shape, seed) for seed in range(6)]
    soap = gradtx.soap(0.1, 0.9, 0.99, max_precond_dim=0, weight_decay=0.1)
    found, state = run(soap, grads[0], grads)
    expected, _ = run(gradtx.adamw(0.1, 0.9, 0.99, weight_decay=0.1), grads[0], grads)
    np.testing.assert_array_equal(jnp.stack(found), jnp.stack(expected))
    assert not jax.tree.leaves(state.stages[1])


def test_the_first_step_of_soap_is_that_of_adamw_and_the_second_is_not():
    grads = [draw((3, 4), seed) for seed in range(2)]
    found, _ = run(gradtx.soap(0.1, 0.9, 0.99, weight_decay=0.1), grads[0], grads)
    expected, _ = run(gradtx.adamw(0.1, 0.9, 0.99, weight_decay=0.1), grads[0], grads)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    assert float(jnp.abs(found[1] - expected[1]).max()) > 1e-3


def test_signs_of_eigenvectors_cancel():
    tx, grads = BUILD["soap"](), [draw((3, 4), seed) for seed in range(7)]
    _, state = run(tx, grads[0], grads[:2])
    signs = {"left_basis": jnp.asarray([1.0, -1, -1]), "right_basis": jnp.asarray([-1.0, 1, -1, 1])}
    flipped = {k: v * signs[k][None, None, :] if k in signs else v for k, v in state.stages[1].items()}
    other = state._replace(stages=(state.stages[0], flipped, *state.stages[2:]))
    for g in grads[2:]:
        u, state = tx.update(g, state, grads[0])
        v, other = tx.update(g, other, grads[0])
        np.testing.assert_allclose(u, v, rtol=1e-4, atol=1e-6)


def test_the_basis_is_renewed_in_a_branch():
    params, tx = jnp.ones((3, 4)), BUILD["soap"]()
    grads = [draw((3, 4), seed) for seed in range(6)]
    state, bases = tx.init(params), []
    for g in grads:
        state = tx.update(g, state, params)[1]
        bases.append(np.asarray(state.stages[1]["left_basis"][0]))
    np.testing.assert_array_equal(bases[0], np.eye(3))
    changed = [bool((a != b).any()) for a, b in itertools.pairwise(bases)]
    assert changed == [True, True, False, True, False]
    for basis in bases:
        np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-6)
    jaxpr = jax.make_jaxpr(tx.update)(params, state, params).jaxpr

    def outside(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            inner = equation.params.get("jaxpr")
            if equation.primitive.name != "cond" and inner is not None:
                yield from outside(getattr(inner, "jaxpr", inner))

    assert "cond" in set(outside(jaxpr))
    assert not {"eigh", "householder_product", "geqrf", "sort"} & set(outside(jaxpr))


def test_long_sides_keep_their_own_basis():
    params = {"w": jnp.ones((2, 5))}
    state = gradtx.soap(0.1, max_precond_dim=3).init(params)
    assert state.stages[1]["left"]["w"].shape == (1, 2, 2)
    assert not jax.tree.leaves(state.stages[1]["right"])


@pytest.mark.parametrize(
    ("shape", "limit", "sides"),
    [
        ((3, 3, 64, 128), 10_000, (576, 128)),
        ((3, 3, 64, 128), 100, (9, 64, 128)),
        ((3, 4), 12, (12,)),
        ((3, 4), 11, (3, 4)),
        ((2, 100, 3), 10, (2, 100, 3)),
        ((100, 2, 3), 10, (100, 6)),
        ((1, 1), 10, (1,)),
        ((2, 1, 3), 0, (2, 1, 3)),
    ],
)
def test_merged_axes(shape, limit, sides):
    assert merged(shape, limit) == sides


def test_merged_axes_are_those_of_the_matrix():
    """Also with another side's length beyond the limit: one-sided."""
    grads = [draw((2, 2, 5), seed) for seed in range(4)]
    merge, _ = run(gradtx.soap(0.1, max_precond_dim=4, precondition_frequency=1, merge_dims=True), grads[0], grads)
    flat = [g.reshape(4, 5) for g in grads]
    plain, state = run(gradtx.soap(0.1, max_precond_dim=4, precondition_frequency=1), flat[0], flat)
    np.testing.assert_array_equal([u.reshape(4, 5) for u in merge], plain)
    assert not jax.tree.leaves(state.stages[1]["right"])


def test_a_vector_is_a_matrix_of_one_column():
    grads = [draw((3, 1), seed) for seed in range(4)]
    column, _ = run(BUILD["soap"](), grads[0], grads)
    both = [{"b": g.reshape(3), "c": g.reshape(3)} for g in grads]
    tx = gradtx.soap(
        0.1, precondition_frequency=2, weight_decay=0.0, precondition_1d=True, adam_paths=("c",), dimension_numbers={}
    )
    found, _ = run(tx, both[0], both)
    adam, _ = run(gradtx.adam(0.1, 0.95, 0.95), both[0], both)
    for u, v, w in zip(found, column, adam, strict=True):
        np.testing.assert_allclose(u["b"], v.reshape(3), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(u["c"], w["c"], rtol=1e-6)
    assert float(jnp.abs(found[-1]["b"] - adam[-1]["b"]).max()) > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_a_factor_for_each_of_three_sides(dtype):
    """The second step, in the eigenbasis of the first gradient's factors, against NumPy."""
    grads, eps, b = [draw((2, 3, 4), seed, dtype) for seed in range(2)], 1e-8, 0.95
    found, state = run(gradtx.soap(0.1, weight_decay=0.0, max_precond_dim=5, merge_dims=True), grads[0], grads)
    first, second = (np.asarray(g, np.complex128) for g in grads)
    bases = []
    for axis in range(3):
        flat = np.moveaxis(first, axis, 0).reshape(first.shape[axis], -1)
        bases.append(np.linalg.eigh(flat @ flat.conj().T)[1][:, ::-1])

    def turned(x, bases):
        for axis, q in enumerate(bases):
            x = np.moveaxis(np.tensordot(q, x, (1, axis)), 0, axis)
        return x

    there = [q.conj().T for q in bases]
    mean = (b * (1 - b) * first + (1 - b) * second) / (1 - b**2)
    squares = (b * (1 - b) * np.abs(first) ** 2 + (1 - b) * np.abs(turned(second, there)) ** 2) / (1 - b**2)
    expected = -0.1 * turned(turned(mean, there) / (np.sqrt(squares) + eps), bases)
    np.testing.assert_allclose(found[1], expected, rtol=1e-3, atol=1e-5)
    assert [state.stages[1][n].shape for n in ("left", "right", "third")] == [(1, 2, 2), (1, 3, 3), (1, 4, 4)]
    assert not jax.tree.leaves(state.stages[1]["fourth"])


def test_merging_has_limits():
    with pytest.raises(ValueError, match="which name the sides"):
        gradtx.soap(dimension_numbers=STACK, merge_dims=True)
    with pytest.raises(ValueError, match="leaf w: expected an array of at most 6 sides, got 7"):
        gradtx.soap(max_precond_dim=2, merge_dims=True).init({"w": jnp.ones((2,) * 7)})


def test_eigenbasis_needs_its_end_and_its_beginning():
    with pytest.raises(ValueError, match="to_eigenbasis before it"):
        gradtx.from_eigenbasis().init(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"every=\.\.\."):
        gradtx.to_eigenbasis(every=0)


# Kron


def test_kron_whitens():
    """P is (E g g^T)^(-1/2) at its fixed point: scales that differ by a factor of 800 come out nearly equal."""
    rows, columns = jnp.asarray([0.1, 1.0, 5.0]), jnp.asarray([0.5, 1.0, 2.0, 8.0])
    tx = gradtx.scale_by_kron(precond_lr=gradtx.schedules.exponential_decay(0.1, 500, 0.5))
    size = rows[:, None] * columns[None, :]

    def step(state, seed):
        u, state = tx.update(jax.random.normal(jax.random.key(seed), (3, 4)) * size, state)
        return state, u

    updates = jax.lax.scan(step, tx.init(size), jnp.arange(4_000))[1][2_000:]
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(updates**2, axis=0)), 1.0, atol=0.5)


def test_kron_leaves_its_factors_alone_when_there_is_no_gradient():
    tx, zero = gradtx.scale_by_kron(), jnp.zeros((3, 4))
    _, before = run(tx, zero, [draw((3, 4))])
    after = before
    for _ in range(5):
        u, after = tx.update(zero, after)
        np.testing.assert_array_equal(u, 0.0)
    for name in ("left", "right"):
        np.testing.assert_array_equal(after.stages[0][name], before.stages[0][name])


@pytest.mark.parametrize(("share", "steps"), [(1.0, [0, 1, 2, 3, 4, 5]), (0.5, [1, 3, 5]), (1 / 3, [2, 5]), (0.0, [])])
def test_kron_updates_its_factors_at_even_intervals(share, steps):
    tx, state, changed = gradtx.scale_by_kron(share), None, []
    state, last = tx.init(jnp.ones((3, 4))), np.eye(3)
    for i in range(6):
        state = tx.update(draw((3, 4), i), state)[1]
        now = np.asarray(state.stages[0]["left"][0])
        if (now != last).any():
            changed.append(i)
        last = now
    assert changed == steps


@pytest.mark.parametrize(
    ("keywords", "shape", "left", "right"),
    [
        ({}, (3, 4), (1, 3, 3), (1, 4, 4)),
        ({"max_size_triangular": 3}, (3, 4), (1, 3, 3), (1, 4)),
        ({"memory_save_mode": "one_diag"}, (5, 4), (1, 5), (1, 4, 4)),
        ({"memory_save_mode": "all_diag"}, (5, 4), (1, 5), (1, 4)),
        ({"vectors": True}, (3, 4), None, (1, 12)),
        ({"min_ndim_triangular": 1}, (4,), None, (1, 4, 4)),
        ({}, (2, 3, 4), None, (1, 24)),
        ({"numbers": gradtx.MuonDimensionNumbers(-2, -1)}, (2, 3, 4), (2, 3, 3), (2, 4, 4)),
        ({}, (4, 1), (1, 4, 4), None),
        ({}, (), None, (1, 1)),
        ({}, (0, 3), None, None),
    ],
)
def test_factors_of_kron(keywords, shape, left, right):
    slots = gradtx.scale_by_kron(**keywords).init(jnp.ones(shape)).stages[0]
    assert [getattr(slots[name], "shape", None) for name in ("left", "right")] == [left, right]


def test_modes_of_kron():
    with pytest.raises(ValueError, match="'one_diag', 'all_diag'"):
        gradtx.kron(memory_save_mode="some")


# All


@each
def test_a_complex_matrix_turned_by_phases_gives_the_update_turned(name):
    """The optimizers of unitary bases commute with phases of rows; kron's probes are fixed, so for it: finite, moving."""
    grads = [draw((3, 4), seed, jnp.complex64) for seed in range(5)]
    phases = jnp.asarray(np.exp(1j * np.array([[0.3], [1.0], [-2.0]])), jnp.complex64)
    first = slice(0, 1) if name == "soap" else slice(None)  # with another first step the second moments differ
    found, _ = run(BUILD[name](), grads[0], grads)
    assert all(u.dtype == jnp.complex64 and bool(jnp.isfinite(u).all()) for u in found)
    assert all(float(jnp.abs(u.imag).max()) > 1e-3 for u in found)
    if name == "kron":
        return
    turned, _ = run(BUILD[name](), grads[0], [phases * g for g in grads])
    for u, v in list(zip(found, turned))[first]:
        np.testing.assert_allclose(phases * u, v, rtol=1e-3, atol=1e-5)


@each
def test_real_matrices_as_complex_ones(name):
    grads = [draw((3, 4), seed) for seed in range(5)]
    real, _ = run(BUILD[name](), grads[0], grads)
    wide = [g.astype(jnp.complex64) for g in grads]
    found, _ = run(BUILD[name](), wide[0], wide)
    for u, v in zip(found, real):
        np.testing.assert_allclose(u.real, v, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(u.imag, 0.0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "precision"), [(None, "HIGH"), ("float32", "HIGHEST")])
def test_the_precision_of_muons_products(dtype, precision):
    """TensorFloat-32 on a GPU by default, full float32 if it is asked for."""
    g = draw((3, 4))
    tx = gradtx.orthogonalize(ns_steps=5, dtype=dtype)
    program = str(jax.make_jaxpr(tx.update)(g, tx.init(g)))
    assert program.count("dot_general[") == 15
    assert re.findall(r"precision=\(Precision\.(\w+), Precision\.(\w+)\)", program) == [(precision, precision)] * 15


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_the_dtype_of_muons_iteration_leaves_complex_matrices_complex(dtype):
    g = draw((3, 4), dtype=jnp.complex64)
    expected, _ = run(BUILD["muon"](), g, [g])
    found, _ = run(BUILD["muon"](ns_dtype=dtype), g, [g])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)


@each
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_matrices(name, shape):
    params = {"w": jnp.ones(shape), "b": jnp.ones(3)}
    found, _ = run(BUILD[name](), params, [params] * 3)
    assert found[-1]["w"].shape == shape
    assert bool(jnp.isfinite(found[-1]["b"]).all())


@each
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e20, 1e30, 3e38])
def test_extremes(name, size):
    """The same directions at every size, from step to step too: finite, moving, and no state lost."""
    grads = [np.float32(size) * jnp.clip(draw((3, 4), seed), -1, 1) for seed in range(6)]
    calm = [draw((3, 4), seed) for seed in range(4)]
    found, state = run(BUILD[name](), grads[0] * 0, grads + calm)
    assert all(bool(jnp.isfinite(u).all()) for u in found)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state))
    assert all(bool((u == 0).all()) == (size == 0) for u in found[:6]) or size < 1e-10
    assert float(jnp.abs(found[-1]).max()) > (1e-3 if size <= 1 else 0)


@each
@pytest.mark.parametrize("spec", [("data", "model"), ("data",), (None, "model")])
def test_sharded_steps_compile_once(name, spec):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "model"))
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    params, tx = {"w": jax.device_put(jnp.ones((4, 8)), sharding)}, BUILD[name]()
    state, step = tx.init(params), jax.jit(tx.update)
    for seed in range(3):
        grads = {"w": jax.device_put(draw((4, 8), seed), sharding)}
        before = [x.sharding for x in jax.tree.leaves(state)]
        updates, state = step(grads, state, params)
        assert all(a.is_equivalent_to(x.sharding, x.ndim) for a, x in zip(before, jax.tree.leaves(state), strict=True))
        assert updates["w"].sharding.is_equivalent_to(sharding, 2)
    assert step._cache_size() == 1


@each
def test_sharded_and_replicated_agree(name):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "model"))
    sharding = NamedSharding(mesh, PartitionSpec("data", "model"))
    # Square, so that factors have full rank from the first step on: the rest of a basis is a matter of rounding.
    grads = [draw((4, 4), seed) for seed in range(4)]
    plain, _ = run(BUILD[name](), grads[0], grads)
    spread = [jax.device_put(g, sharding) for g in grads]
    found, _ = run(BUILD[name](), spread[0], spread)
    for u, v in zip(found, plain):
        np.testing.assert_allclose(u, v, rtol=1e-3, atol=1e-5)
