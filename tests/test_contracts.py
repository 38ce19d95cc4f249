"""What every transformation keeps, whatever it computes: the contracts, over the zoo."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from zoo import BY_NAME, OPTIMIZERS, ZOO, Row

import gradtx
from gradtx._core.hyperparameters import Decay
from gradtx._core.plan import linear
from gradtx._core.stages import Wrapped, rounds_parameters
from gradtx._core.transform import Wrapper

pytestmark = pytest.mark.usefixtures("quick_compilation")
every = pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
# For what takes seconds a row: the parts of optimizers, which these hold, only in the slow sweep.
every_optimizer = pytest.mark.parametrize(
    "row",
    [row if row in OPTIMIZERS else pytest.param(row, marks=pytest.mark.slow) for row in ZOO],
    ids=lambda row: row.name,
)
REALLY_RUN = {"sgd_nesterov", "adamw", "muon", "adafactor", "schedule_free_adamw", "clip_by_global_norm"}
OTHERS = [jnp.float32, jnp.bfloat16, jnp.float16]


def arguments() -> list[Any]:
    return [pytest.param(row, name, id=f"{row.name}-{name}") for row in ZOO for name in row.arguments]


def is_number(value: Any) -> bool:
    return isinstance(value, float)


def as_floats(tree: Any) -> Any:
    """Small integers are the last bits of a number: compared beside the first one that they follow."""
    return jax.tree.map(lambda x: 1000 + x / 2 ** (8 * x.itemsize) if x.dtype in (np.int8, np.int16) else x, tree)


def stacked(*trees: Any) -> Any:
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *trees)


def assert_form(tx: Any, before: Any, after: Any, updates: Any, dtype: Any, grad_dtype: Any) -> None:
    """The state keeps structure, shapes, dtypes and weak types; the updates have what parameter and gradient promote to."""
    assert jax.tree.structure(before) == jax.tree.structure(after)
    chex.assert_trees_all_equal(samples.avals(before), samples.avals(after))
    with jax.numpy_dtype_promotion("standard"):
        expected = jnp.promote_types(dtype, grad_dtype)
        if rounds_parameters(tx):  # the update leads to a 16-bit value exactly
            expected = jnp.promote_types(expected, jnp.float32)
    for leaf in jax.tree.leaves(updates):
        assert leaf.dtype == expected
        assert not getattr(leaf, "aval", leaf).weak_type


# ---- what is computed ----


def five_steps(row: Row, changes: dict[str, Any]) -> Any:
    """The last update and state."""
    return samples.run(row.build(**changes), samples.params(row.dtype), walks=row.walks)


@functools.cache
def unchanged(name: str, needed_by: str) -> Any:
    row = BY_NAME[name]
    return five_steps(row, row.needs.get(needed_by, {}))


@pytest.mark.parametrize(("row", "argument"), arguments())
def test_every_argument_matters(row: Row, argument: str):
    plain, state = unchanged(row.name, argument if argument in row.needs else "")
    changed, other = five_steps(row, {**row.needs.get(argument, {}), argument: row.arguments[argument]})
    if argument in row.hidden:
        assert samples.avals(state) != samples.avals(other)
        return
    moved = max(
        float(jnp.max(jnp.abs(a - b))) for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(changed)) if a.size
    )
    size = max(float(jnp.max(jnp.abs(a))) for a in jax.tree.leaves(plain) if a.size)
    assert moved > 1e-4 * size, (moved, size)


@every
@pytest.mark.parametrize("dtype", OTHERS, ids=lambda d: d.__name__)
def test_zero_gradients_give_zero_updates(row: Row, dtype: Any):
    # Trap 4: NaN or inf in 12 of 22 Optax optimizers.
    tree = jax.tree.map(jnp.zeros_like, (samples.params if dtype == row.dtype else samples.few)(dtype))
    state = row.build().init(tree)
    for _ in range(3):
        updates, state = samples.update(row.build(), tree, state, tree)
        for leaf in jax.tree.leaves(updates):
            assert np.isfinite(np.asarray(leaf, np.float32)).all()
            if not row.noise:
                np.testing.assert_array_equal(np.asarray(leaf, np.float32), 0.0)
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(state))


@every
def test_eager_and_jitted_agree(row: Row):
    tree, tx = samples.params(row.dtype), row.build()
    grads, state = samples.grads_like(tree), tx.init(tree)
    eager = tx.update(grads, state, tree)
    jitted = samples.cheap_jit(tx.update)(grads, state, tree)
    as_data = samples.update(tx, grads, state, tree)
    chex.assert_trees_all_close(eager, jitted, rtol=3e-6, atol=0)
    chex.assert_trees_all_close(eager, as_data, rtol=3e-6, atol=0)
    assert_form(tx, state, eager[1], eager[0], row.dtype, row.dtype)


@every
def test_none_is_no_parameter(row: Row):
    tree, tx = samples.params(row.dtype), row.build()
    updates, _ = tx.update(samples.grads_like(tree), tx.init(tree), tree)
    assert updates["pair"][1] is None


# ---- state and updates keep their form ----


@every
@pytest.mark.parametrize(
    ("dtype", "grad_dtype"),
    [
        (jnp.float32, jnp.float32),
        (jnp.float32, jnp.bfloat16),
        (jnp.bfloat16, jnp.float32),
        (jnp.bfloat16, jnp.bfloat16),
        (jnp.float16, jnp.bfloat16),
    ],
    ids=lambda d: d.__name__,
)
def test_state_is_stable_and_updates_are_promoted(row: Row, dtype: Any, grad_dtype: Any):
    # Trap 5: bf16 params with f32 grads change the state's dtype after one step in 18 Optax aliases.
    # What comes out of a compiled update is what its trace says. An eager one is looked at in the tests around, with
    # equal and with mixed dtypes.
    tree, tx = samples.few(dtype), row.build()
    grads, state = samples.grads_like(tree, dtype=grad_dtype), tx.init(tree)
    updates, after = jax.eval_shape(tx.update, grads, state, tree)
    assert_form(tx, state, after, updates, dtype, grad_dtype)


@every
def test_scan_cond_vmap(row: Row):
    """Three steps in a loop under vmap, each of the two on its own gradients, are three eager steps."""
    tree, tx = samples.few(jnp.bfloat16), row.build()
    both = [samples.grads_like(tree, seed, dtype=jnp.float32) for seed in (1, 2)]
    state = tx.init(tree)

    def loop(grads: Any, params: Any) -> Any:
        return jax.lax.scan(lambda s, _: tx.update(grads, s, params)[::-1], tx.init(params), None, length=3)

    looped = samples.cheap_jit(jax.vmap(loop))(stacked(*both), stacked(tree, tree))
    after = state
    for i in range(3):
        updates, after = tx.update(both[1], after, tree)
        assert_form(tx, state, after, updates, jnp.bfloat16, jnp.float32)
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[1, i], looped[1]), updates, rtol=1e-5)
    chex.assert_trees_all_close(*map(as_floats, (jax.tree.map(lambda x: x[1], looped[0]), after)), rtol=1e-5)

    def perhaps(go: Any, s: Any) -> Any:
        return jax.lax.cond(go, lambda s: tx.update(both[0], s, tree)[1], lambda s: s, s)

    # Traced only: a conditional is refused if its two states differ in their form.
    chex.assert_trees_all_equal(samples.avals(jax.eval_shape(perhaps, True, state)), samples.avals(state))


@every
def test_abstract_init(row: Row):
    tree, tx = samples.params(jnp.bfloat16), row.build()
    state = tx.init(tree)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    for other in (jax.eval_shape(tx.init, tree), jax.eval_shape(tx.init, abstract), tx.init(abstract)):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), other) == shapes


@every
def test_fresh_state_can_be_donated(row: Row):
    tree = samples.few(row.dtype)
    state = row.build().init(tree)
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state) if x.size]
    assert len(set(pointers)) == len(pointers)
    for x in jax.tree.leaves((tree, state)):
        assert not x.is_deleted()
    gradtx.step(row.build(), tree, state, samples.grads_like(tree))


@every
def test_shardings_are_stable(row: Row):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "model"))
    sharded = NamedSharding(mesh, PartitionSpec("data", "model"))
    tree = {"matrix": jax.device_put(jnp.ones((4, 8), row.dtype), sharded)}
    tx = row.build()
    step = samples.cheap_jit(tx.update)
    for init in (tx.init, jax.jit(tx.init)):
        state = init(tree)
        updates, after = step(tree, state, tree)
        updates, again = step(tree, after, tree)
        for old, new in zip(jax.tree.leaves(after), jax.tree.leaves(again)):
            assert old.sharding.is_equivalent_to(new.sharding, old.ndim)
        for leaf in jax.tree.leaves((state, again)):
            expected = sharded if leaf.ndim == 2 else NamedSharding(mesh, PartitionSpec())
            assert leaf.sharding.device_set == set(mesh.devices.flat) or init is not tx.init
            if leaf.ndim == 2:
                assert leaf.sharding.is_equivalent_to(expected, 2), leaf.sharding
        assert updates["matrix"].sharding.is_equivalent_to(sharded, 2)


# ---- a transformation is data ----


@every
def test_no_recompilation(row: Row):
    tree = samples.params(row.dtype)
    grads = samples.grads_like(tree)
    state = row.build().init(tree)
    _, state = samples.update(row.build(), grads, state, tree)
    known = samples.update._cache_size()
    for _ in range(2):
        _, state = samples.update(row.build(), grads, state, tree)
    for argument, value in row.arguments.items():
        other = row.build(**{**row.needs.get(argument, {}), argument: value})
        if jax.tree.structure(other) == jax.tree.structure(row.build()):
            samples.update(other, grads, state, tree)
    assert samples.update._cache_size() == known


@every
def test_init_and_update_unpack(row: Row):
    tx = row.build()
    init, update = tx
    assert (init, update) == (tx.init, tx.update)
    assert (tx[0], tx[1]) == (tx.init, tx.update)
    assert len(tx) == 2
    assert isinstance(tx, optax.GradientTransformationExtraArgs)


@every
def test_prints_compares_hashes_pickles(row: Row):
    tx = row.build()
    assert tx == row.build()
    assert hash(tx) == hash(row.build())
    again = pickle.loads(pickle.dumps(tx))
    assert (again, hash(again), repr(again)) == (tx, hash(tx), repr(tx))
    namespace = {**vars(gradtx.schedules), **vars(gradtx)}
    assert eval(repr(tx), namespace) == tx
    for argument, value in row.arguments.items():
        other = row.build(**{**row.needs.get(argument, {}), argument: value})
        assert other != tx
        assert repr(other) != repr(tx)


@every
def test_equal_transformations_share_a_trace_as_static_arguments(row: Row):
    # Trap 15: an equal optimizer as a static argument retraces.
    tree = samples.params(row.dtype)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(lambda tx, g, s, p: tx.update(g, s, p), n=1), static_argnums=0)
    for _ in range(2):
        tx = row.build()
        step.trace(tx, samples.grads_like(tree), tx.init(tree), tree)


@every
def test_leaves_are_numbers_and_survive_neighbours(row: Row):
    tx = row.build()
    leaves, treedef = jax.tree.flatten(tx)
    assert all(isinstance(x, float) for x in leaves)
    for stand_in in (None, True, object()):
        other = jax.tree.unflatten(treedef, [stand_in] * len(leaves))
        found = jax.tree.flatten(other, is_leaf=lambda x: x is None)[0]
        found = [x for x in found if x is not None or stand_in is None]  # a number that is not used is None
        assert all(x is stand_in for x in found)
        assert len(found) >= len(leaves)
    assert jax.tree.unflatten(treedef, leaves) == tx


@every
def test_a_population_is_a_vmap(row: Row):
    numbers = {n: v for n, v in row.arguments.items() if is_number(v)}
    if not numbers:
        assert not jax.tree.leaves(row.build()) or row.name in ("bias_correction", "nesterov", "scale_by_schedule")
        return
    name, value = next(iter(numbers.items()))
    before = row.needs.get(name, {})
    values = jnp.asarray([value, 0.9 * value])
    tree = samples.params(row.dtype)
    grads = samples.grads_like(tree)
    population = jax.vmap(lambda x: row.build(**{**before, name: x}))(values)
    many = samples.cheap_jit(jax.vmap(lambda tx: tx.update(grads, tx.init(tree), tree)[0]))(population)
    for i, x in enumerate([value, 0.9 * value]):
        tx = row.build(**{**before, name: x})
        one, _ = samples.update(tx, grads, tx.init(tree), tree)
        chex.assert_trees_all_close(jax.tree.map(lambda y, i=i: y[i], many), one, rtol=2e-5, atol=1e-12)


@every_optimizer
def test_hypergradients_are_finite_with_dead_inputs(row: Row):
    tree = samples.few(row.dtype)
    dead = jax.tree.map(jnp.zeros_like, tree)

    def loss(tx: Any) -> Any:
        def step(state: Any, _: Any) -> tuple[Any, Any]:
            updates, state = tx.update(dead, state, tree)
            return state, sum(jnp.sum(u) for u in jax.tree.leaves(updates))

        return jnp.sum(jax.lax.scan(step, tx.init(tree), None, length=2)[1])

    for slope in jax.tree.leaves(samples.cheap_jit(jax.grad(loss))(row.build())):
        assert np.isfinite(slope)


# ---- inside and around Optax ----


@pytest.mark.parametrize(
    "row", [*OPTIMIZERS, BY_NAME["clip_by_global_norm"], BY_NAME["scope"]], ids=lambda row: row.name
)
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda tx: optax.chain(optax.clip(0.5), tx), id="chain"),
        pytest.param(lambda tx: optax.MultiSteps(tx, 2), id="MultiSteps"),
        pytest.param(lambda tx: optax.masked(tx, lambda t: jax.tree.map(lambda x: x.ndim > 0, t)), id="masked"),
        pytest.param(
            lambda tx: optax.partition(
                {"a": tx, "b": optax.sgd(0.1)}, lambda t: jax.tree.map(lambda x: "a" if x.ndim else "b", t)
            ),
            id="partition",
        ),
        pytest.param(lambda tx: optax.apply_if_finite(tx, 3), id="apply_if_finite"),
        pytest.param(lambda tx: gradtx.chain(optax.clip(0.5), tx), id="gradtx.chain"),
        pytest.param(lambda tx: gradtx.inject_hyperparams(tx), id="inject_hyperparams"),
    ],
)
def test_wrappers(row: Row, wrap: Any):
    tree = samples.few()
    tx = wrap(row.build())
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # Optax's wrappers are not strict
        state = tx.init(tree)
        # Most are traced only, which is where a wrapper and what it wraps can disagree.
        update = (
            samples.cheap_jit(tx.update) if row.name in REALLY_RUN else functools.partial(jax.eval_shape, tx.update)
        )
        for i in range(4 if row.name in REALLY_RUN else 1):
            updates, after = update(samples.grads_like(tree, i), state, tree)
            assert jax.tree.structure(after) == jax.tree.structure(state)
            state = after
    assert jax.tree.structure(updates) == jax.tree.structure(tree)


@every
def test_one_count_and_optax_tree_tools(row: Row):
    # Trap 13: two counts, KeyError.
    tree, tx = samples.params(row.dtype), row.build()
    _, state = samples.run(tx, tree, steps=3)
    counts = [int(count) for count in samples.counts(state)]
    assert counts[-1] == row.steps_of_three
    if not isinstance(tx, Wrapper) and not any(isinstance(stage, Wrapped) for stage in linear(tx)):
        assert len(counts) == 1
        assert int(optax.tree.get(state, "count")) == 3
    mirrored = optax.tree.map_params(tx, jnp.ones_like, state)
    assert jax.tree.structure(mirrored) == jax.tree.structure(state)
    # With something for each parameter, and nothing for what is no parameter: as for Optax's masks `is_leaf` says where none is.
    paths = jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path), tree)
    marked = optax.tree.map_params(
        tx,
        lambda slot, path: () if isinstance(slot, optax.MaskedNode) else path,
        state,
        paths,
        transform_non_params=lambda _: (),
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    assert set(jax.tree.leaves(marked)) <= set(jax.tree.leaves(paths))
    for name, slot in samples.slots(mirrored):
        if not isinstance(slot, jax.Array):  # a scalar is no parameter
            assert all(np.all(np.asarray(x) == 1) for x in jax.tree.leaves(slot)), name


def test_decay_leaves_are_complements():
    tx = gradtx.adam(1e-3)
    decays = [x for x in jax.tree.leaves(tx, is_leaf=lambda x: isinstance(x, Decay)) if isinstance(x, Decay)]
    assert [d.complement for d in decays] == [1 - 0.9, 1 - 0.999]
    assert [d.value for d in decays] == [0.9, 0.999]
