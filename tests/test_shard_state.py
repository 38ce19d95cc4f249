"""State split over the devices that hold the same parameters: the same training, a part of the memory."""

from __future__ import annotations

import math
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from zoo import OPTIMIZERS, Row

import gradtx
from gradtx._placements import split_spec

SHAPES = {"matrix": (16, 24), "vector": (16,), "odd": (9, 7)}
CHAINS = {
    "clip_adamw": lambda: gradtx.chain(
        gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2), gradtx.average_parameters(0.9)
    ),
    "groups": lambda: gradtx.by_path(
        {"vector": gradtx.sgd(0.1, momentum=0.9), "odd": "frozen", "**": gradtx.lion(1e-2)}
    ),
    "accumulate": lambda: gradtx.accumulate_gradients(gradtx.adam(1e-2), 2),
    "muon": lambda: gradtx.muon(1e-2),
    "packed": lambda: gradtx.with_storage(gradtx.adamw(1e-2), "quarter", min_size=8),
    "noise": lambda: gradtx.noisy_sgd(1e-2),
    "inject": lambda: gradtx.inject_hyperparams(gradtx.adafactor(1e-2, min_dim_size_to_factor=8)),
}
ELEMENTWISE = {"groups", "accumulate", "noise", "packed"}
LAYOUTS = {
    "replicated": {},
    "tensor": {"matrix": (None, "model"), "vector": ("model",)},
}


def mesh_of(kind: AxisType = AxisType.Auto, sizes: tuple[int, ...] = (4, 2)) -> jax.sharding.Mesh:
    return jax.make_mesh(sizes, ("data", "model")[: len(sizes)], axis_types=(kind,) * len(sizes))


def words(mesh: Any, spec: tuple[Any, ...], ndim: int) -> PartitionSpec:
    """A spec as compiled steps return it: on explicit axes, an entry a dimension."""
    return PartitionSpec(*spec, *[None] * (ndim - len(spec) if AxisType.Explicit in mesh.axis_types else 0))


def placed(
    mesh: jax.sharding.Mesh, layout: dict[str, Any], seed: int, dtype: Any = jnp.float32, shapes: Any = SHAPES
) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        name: jax.device_put(
            np.asarray(rng.normal(size=shape), dtype),
            NamedSharding(mesh, words(mesh, layout.get(name, ()), len(shape))),
        )
        for name, shape in shapes.items()
    }


def whole(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def train(tx: Any, mesh: Any, layout: Any, steps: int = 2) -> tuple[Any, Any]:
    params = placed(mesh, layout, 0)
    state = tx.init(params)
    for i in range(steps):
        params, state = gradtx.step(tx, params, state, placed(mesh, layout, i + 1))
    return params, state


def assert_placed(params: Any, state: Any, tx: Any, mesh: Any, layout: Any) -> None:
    """Parameters where they were, the state where `state_shardings` says, and split as far as it goes."""
    for name, p in params.items():
        assert p.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(*layout.get(name, ()))), p.ndim), name
    for said, x in zip(jax.tree.leaves(gradtx.state_shardings(tx, params)), jax.tree.leaves(state)):
        assert said.is_equivalent_to(x.sharding, x.ndim)
        if any(n % 4 == 0 for n in x.shape) and x.sharding.shard_shape(x.shape) != x.shape:
            assert x.addressable_shards[0].data.size <= x.size // 4


@pytest.mark.parametrize(("name", "layout"), [("clip_adamw", "replicated"), *((name, "tensor") for name in CHAINS)])
def test_it_trains_as_without(name, layout):
    mesh, tx = mesh_of(), CHAINS[name]()
    sharded = gradtx.shard_state(tx, mesh, min_size=8)
    params, state = train(sharded, mesh, LAYOUTS[layout])
    assert_placed(params, state, sharded, mesh, LAYOUTS[layout])
    expected = whole(train(tx, mesh, {}))
    assert jax.tree.structure(state) == jax.tree.structure(expected[1])
    for got, want in zip(jax.tree.leaves((params, state)), jax.tree.leaves(expected)):
        # To the last place (another program may fuse a product and a sum), or a sum's order, which Muon's iteration amplifies.
        rtol, atol = (1.2e-7, 1e-9) if name in ELEMENTWISE else (2e-4, 2e-5)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("row", OPTIMIZERS, ids=lambda row: row.name)
def test_every_optimizer_trains_as_without(row: Row, layout):
    mesh, tx = mesh_of(), row.build()
    sharded = gradtx.shard_state(tx, mesh, min_size=8)
    extra, shapes = row.keywords, SHAPES
    if row.name == "soap":
        # The first factor of a matrix that is not square has a null space, where any basis is one of eigenvectors: the last
        # place of a gradient decides which, and so a third of the first steps.
        shapes = {**SHAPES, "matrix": (16, 16)}

    def train(tx: Any, layout: Any) -> Any:
        params = placed(mesh, layout, 0, shapes=shapes)
        state = tx.init(params)
        for i in range(3):
            params, state = gradtx.step(tx, params, state, placed(mesh, layout, i + 1, shapes=shapes), **extra)
        return params, state

    params, state = train(sharded, LAYOUTS[layout])
    assert_placed(params, state, sharded, mesh, LAYOUTS[layout])
    for got, want in zip(jax.tree.leaves(params), jax.tree.leaves(train(tx, {})[0])):
        np.testing.assert_allclose(got, np.asarray(want), rtol=1e-3, atol=1e-4)


def test_explicit_axes():
    """Also inside a jitted training step, where the parameters' types say how they lie."""
    mesh, tx = mesh_of(AxisType.Explicit), CHAINS["clip_adamw"]()
    layout = LAYOUTS["tensor"]
    expected = whole(train(tx, mesh_of(), {}))
    sharded = gradtx.shard_state(tx, mesh, min_size=8)
    step = jax.jit(lambda p, s, g: gradtx.step(sharded, p, s, g))
    with jax.set_mesh(mesh):
        for init in (sharded.init, jax.jit(sharded.init)):
            params = placed(mesh, layout, 0)
            state = init(params)
            for i in range(2):
                params, state = step(params, state, placed(mesh, layout, i + 1))
            assert_placed(params, state, sharded, mesh, layout)
            for got, want in zip(jax.tree.leaves((params, state)), jax.tree.leaves(expected)):
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert step._cache_size() == 1


def test_inside_a_jitted_step():
    """`gradtx.step` and Optax's protocol, automatic axes: told how the parameters lie, where they are split."""
    mesh, layout = mesh_of(), LAYOUTS["tensor"]
    params, grads = placed(mesh, layout, 0), placed(mesh, layout, 1)
    tx = gradtx.shard_state(gradtx.adamw(1e-2), mesh, min_size=8, params=params)
    state = jax.jit(tx.init)(params)
    assert_placed(params, state, tx, mesh, layout)
    expected = gradtx.step(tx, params, state, grads, donate=False)
    for apply_updates in (gradtx.apply_updates, optax.apply_updates):

        def by_hand(params: Any, state: Any, grads: Any, apply_updates: Any = apply_updates) -> Any:
            updates, state = tx.update(grads, state, params)
            return apply_updates(params, updates), state

        new, after = jax.jit(by_hand)(params, state, grads)
        assert_placed(new, after, tx, mesh, layout)
        for got, want in zip(jax.tree.leaves((new, after)), jax.tree.leaves(expected)):
            np.testing.assert_allclose(got, np.asarray(want), rtol=1e-6, atol=1e-7)
    step = jax.jit(lambda p, s, g: gradtx.step(tx, p, s, g), donate_argnums=(0, 1))
    for seed in (1, 2):
        params, state = step(params, state, placed(mesh, layout, seed))
    assert_placed(params, state, tx, mesh, layout)
    assert step._cache_size() == 1


def test_what_nobody_can_see_is_asked_for():
    mesh = mesh_of()
    tx, params = gradtx.shard_state(gradtx.adam(1e-2), mesh, min_size=8), placed(mesh_of(), {}, 0)
    with pytest.raises(
        ValueError, match=r"leaf matrix: inside jax.jit.* along 'model'.*shard_state\(..., params=params\)"
    ):
        jax.jit(tx.init)(params)
    alone = mesh_of(sizes=(8,))  # here there is nothing to ask
    tx, params = gradtx.shard_state(gradtx.adam(1e-2), alone, min_size=8), placed(alone, {}, 0)
    assert_placed(params, jax.jit(tx.init)(params), tx, alone, {})


def test_each_device_holds_its_part():
    mesh = mesh_of(sizes=(8,))
    params = {"w": jnp.ones((256, 512)), "b": jnp.ones(512)}
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    tx = gradtx.shard_state(gradtx.adamw(1e-3), mesh)
    state = tx.init(params)
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    assert held == 2 * 4 * (256 * 512 // 8 + 512) + 4
    assert f"state: {held:,} bytes a device of {2 * 4 * (256 * 512 + 512) + 4:,} over 'data'" in tx.table(params)
    assert "not split: fewer than min_size elements" in tx.table(params)
    plan = gradtx.memory_plan(tx, params)
    assert plan.device_bytes == held
    assert plan.whole == (
        ("stages/0/mu/b", "float32[512]", 2048),
        ("stages/1/nu/b", "float32[512]", 2048),
        ("count", "int32[]", 4),
    )
    assert "whole on every device: 4,100 bytes: stages/0/mu/b float32[512], stages/1/nu/b" in str(plan)
    odd = {"odd": jax.ShapeDtypeStruct((9973, 1001), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))}
    assert gradtx.memory_plan(tx, {**odd, "w": params["w"]}).whole[0] == (
        "stages/0/mu/odd",
        "float32[9973, 1001]",
        39931892,
    )
    assert "not split: no axis divides" in tx.table(odd)
    assert (
        len(
            {
                x.unsafe_buffer_pointer()
                for x in (y.addressable_shards[0].data for y in jax.tree.leaves((params, state)))
            }
        )
        == 7
    )


def test_large_arrays_that_mirror_no_parameter_are_split_too():
    """SOAP's factors and eigenbases are squares of its parameters' sides."""
    mesh = mesh_of(sizes=(8,))
    params = {"w": jax.device_put(jnp.ones((64, 128)), NamedSharding(mesh, PartitionSpec()))}
    state = gradtx.shard_state(gradtx.soap(1e-3), mesh, min_size=1024).init(params)
    for x in jax.tree.leaves(state):
        assert x.addressable_shards[0].data.size == (x.size // 8 if x.ndim > 1 else x.size)


@pytest.mark.parametrize(
    ("shape", "spec", "expected"),
    [
        ((64, 256), (), (None, "data")),  # 256 / 2 fills tiles as 64 / 2 does: the longest
        ((64, 128), (), ("data", None)),  # 128 / 2 would be padded to 128
        ((128, 128), (), ("data", None)),  # the first of equals
        ((7, 5), (), (None, None)),
        ((7, 6), (), (None, "data")),
        ((64, 256), (None, "model"), ("data", "model")),  # whole before split
        ((63, 256), (None, "model"), (None, ("model", "data"))),
        ((63, 12), (None, "model"), (None, "model")),  # 12 / 8 would be split, 2 does not divide it
        ((64, 256), ("data",), ("data", None)),
        ((4,), (), ("data",)),
        ((2,), (), (None,)),  # fewer than min_size
        ((0, 4), (), (None, None)),
        ((), (), ()),
    ],
)
def test_the_rule(shape, spec, expected):
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "model"))
    got = split_spec(shape, PartitionSpec(*spec), mesh, ("data",), 4)
    assert got == expected
    for n, names in zip(shape, got):
        assert n % math.prod(mesh.shape[a] for a in ([names] if isinstance(names, str) else names or ())) == 0


def test_several_axes():
    mesh = jax.sharding.AbstractMesh((2, 4), ("pod", "data"))
    assert split_spec((64, 512), PartitionSpec(), mesh, ("pod", "data"), 0) == ("data", "pod")
    assert split_spec((63, 512), PartitionSpec(), mesh, ("pod", "data"), 0) == (None, ("pod", "data"))


def test_it_prints_and_compares():
    mesh = jax.sharding.AbstractMesh((8,), ("data",))
    tx = gradtx.shard_state(gradtx.sgd(0.1), mesh)
    assert repr(tx).startswith("shard_state(chain(scale_by_learning_rate(0.1)), mesh=AbstractMesh(")
    assert tx == gradtx.shard_state(gradtx.sgd(0.1), mesh) != gradtx.shard_state(gradtx.sgd(0.1), mesh, min_size=3)
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert tx.replace(learning_rate=0.2) == gradtx.shard_state(gradtx.sgd(0.2), mesh)
    with pytest.raises(TypeError, match="cannot pickle shard_state.*pickle what is inside"):
        pickle.dumps(gradtx.shard_state(gradtx.sgd(0.1), mesh_of()))


def test_bad_arguments():
    mesh, adam = mesh_of(), gradtx.adam(1e-2)
    with pytest.raises(ValueError, match=r"the mesh's axes 'data', 'model', got 'batch'"):
        gradtx.shard_state(adam, mesh, "batch")
    with pytest.raises(TypeError, match=r"mesh=...\): expected a jax.sharding.Mesh, got 'data'"):
        gradtx.shard_state(adam, "data")
    with pytest.raises(ValueError, match=r"min_size=...\): expected an integer >= 0, got 0.5"):
        gradtx.shard_state(adam, mesh, min_size=0.5)
    with pytest.raises(TypeError, match="expected a gradtx or Optax transformation"):
        gradtx.shard_state(gradtx.adam, mesh)


def test_parameters_that_are_elsewhere():
    """The running state is untouched by what is refused."""
    mesh = mesh_of()
    tx = gradtx.shard_state(gradtx.adam(1e-2), mesh)
    one = {"w": jax.device_put(jnp.ones(8), jax.devices()[1])}
    with pytest.raises(ValueError, match=r"leaf w: expected a parameter on Mesh.*device_put\(params, NamedSharding"):
        tx.init(one)
    other = jax.make_mesh((8,), ("data",))
    elsewhere = {"w": jax.device_put(jnp.ones(8), NamedSharding(other, PartitionSpec()))}
    with pytest.raises(
        ValueError, match="leaf w: expected a parameter on Mesh.*'model': 2.*, got one on Mesh.*'data': 8"
    ):
        tx.init(elsewhere)
    params = {"w": jax.device_put(jnp.ones(8), NamedSharding(mesh, PartitionSpec()))}
    state = tx.init(params)
    with pytest.raises(ValueError, match="leaf w: expected a parameter on Mesh"):
        gradtx.step(tx, elsewhere, state, elsewhere)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="built for a tree of 2 parameters, and is given one of 1"):
        specs = {"w": PartitionSpec(), "v": PartitionSpec("model")}
        gradtx.shard_state(gradtx.adam(1e-2), mesh, params=specs).init(params)
    assert not any(x.is_deleted() for x in jax.tree.leaves((params, state)))


def test_a_state_of_another_mesh():
    """Said with what to do, and nothing is used up."""
    one, other = mesh_of(sizes=(8,)), jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    tx = gradtx.adam(1e-2)
    params, state = placed(one, {}, 0), tx.init(placed(other, {}, 0))
    for step in (gradtx.step, lambda *args: gradtx.step(*args, donate=False)):
        with pytest.raises(
            ValueError, match=r"parameters on Mesh\('data': 8.*state on Mesh\('data': 4.*Nothing was changed"
        ):
            step(tx, params, state, params)
    assert not any(x.is_deleted() for x in jax.tree.leaves((params, state)))
    moved = jax.device_put(state, gradtx.state_shardings(tx, params))
    expected = gradtx.step(tx, params, tx.init(params), params, donate=False)
    for got, want in zip(
        jax.tree.leaves(gradtx.step(tx, params, moved, params, donate=False)), jax.tree.leaves(expected)
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["automatic", "explicit"])
def test_along_one_axis_at_a_time(kind):
    """The same training over two axes, split along one dimension or along two."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
    tx = gradtx.adamw(1e-2)
    split = gradtx.shard_state(tx, mesh, ("x", "y"), min_size=8)
    with jax.set_mesh(mesh):
        params, state = train(split, mesh, {})
        for p in params.values():
            assert p.sharding.is_fully_replicated
        mu = state.stages[0]["mu"]
        assert mu["matrix"].addressable_shards[0].data.size == 16 * 24 // 8
        assert mu["odd"].addressable_shards[0].data.size == 9 * 7
        expected = train(tx, mesh, {})
    for got, want in zip(jax.tree.leaves((params, state)), jax.tree.leaves(expected)):
        np.testing.assert_allclose(got, np.asarray(want), rtol=1.2e-7, atol=1e-9)


def test_parameters_are_rounded_to_the_same_bits():
    """The random bits of stochastic rounding follow from an element's place in the whole array."""
    mesh = mesh_of(sizes=(8,))
    tx = gradtx.chain(gradtx.adamw(1e-3), gradtx.stochastic_rounding())
    params, grads = placed(mesh, {}, 0, jnp.bfloat16), placed(mesh, {}, 1, jnp.bfloat16)
    sharded = gradtx.shard_state(tx, mesh, min_size=8)
    assert gradtx.memory_plan(sharded, params).rows[1].device_bytes == 4 * (16 * 24 // 8 + 16 // 8 + 9 * 7)
    for got, want in zip(
        jax.tree.leaves(gradtx.step(sharded, params, sharded.init(params), grads, donate=False)),
        jax.tree.leaves(gradtx.step(tx, params, tx.init(params), grads, donate=False)),
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["bfloat16", "half"])
def test_storage_on_explicit_axes(name):
    """Random bits are the whole array's, and lie as the part does."""
    tx = gradtx.with_storage(gradtx.adamw(1e-2), name, min_size=8)
    expected, _ = train(tx, mesh_of(), {}, steps=1)
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        params, _ = train(gradtx.shard_state(tx, mesh, min_size=8), mesh, LAYOUTS["tensor"], steps=1)
    for got, want in zip(jax.tree.leaves(params), jax.tree.leaves(expected)):
        np.testing.assert_allclose(got, np.asarray(want), rtol=1.2e-7, atol=1e-9)


def test_it_is_described_on_two_axes():
    """By functions that only look at shapes, where nobody would see how parameters lie."""
    mesh = mesh_of()
    params, tx = placed(mesh, LAYOUTS["tensor"], 0), gradtx.shard_state(gradtx.adamw(1e-2), mesh, min_size=8)
    plan = gradtx.memory_plan(tx, params)
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tx.init(params)))
    assert sum(row.device_bytes for row in plan.rows) == held
    assert "shard_state" in str(gradtx.describe(tx, params))


def test_its_slots_are_read_and_set():
    """Where they were: the split stays."""
    mesh, inside = mesh_of(sizes=(8,)), gradtx.adamw(1e-2, storage="half")
    tx = gradtx.shard_state(inside, mesh, min_size=8)
    params, state = train(tx, mesh, {}, steps=1)
    _, expected = train(inside, mesh, {}, steps=1)
    for got, want in zip(jax.tree.leaves(gradtx.slots(tx, state)), jax.tree.leaves(gradtx.slots(inside, expected))):
        np.testing.assert_array_equal(got, np.asarray(want))
    reset = gradtx.map_slots(lambda x: 0 * x, tx, state, "mu")
    assert_placed(params, reset, tx, mesh, {})
    assert not any(x.any() for x in jax.tree.leaves(gradtx.get_slot(tx, reset, "mu")))


@pytest.mark.parametrize("pad", [False, True])
def test_a_tree_without_parameters(pad):
    tx = gradtx.shard_state(gradtx.adam(1e-3), mesh_of(), pad=pad)
    params, state = gradtx.step(tx, {}, tx.init({}), {})
    assert (params, int(state.count)) == ({}, 1)


@pytest.mark.parametrize("axis", [None, 3])
def test_an_axis_that_is_no_name(axis):
    with pytest.raises(
        ValueError, match=rf"shard_state\(axis=...\): expected one or several of .*'data'.*, got {axis}"
    ):
        gradtx.shard_state(gradtx.adam(1e-3), mesh_of(), axis)
