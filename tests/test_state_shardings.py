"""Where a state lives: what `state_shardings` says against what `init` does, over the whole table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding
from zoo import ZOO, Row

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

AXES = ("data", "model")
SPECS = {"matrix": ("data", "model"), "wide": (None, "data"), "stack": (None, "model", None), "vector": ("data",)}
SHAPES = {"matrix": (8, 16), "wide": (128, 256), "stack": (2, 4, 8), "vector": (8,), "scalar": ()}


def mesh_of(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((4, 2), AXES, axis_types=(kind, kind))


def abstract(mesh: jax.sharding.Mesh, names: list[str]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(
            SHAPES[name], jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*SPECS.get(name, ())))
        )
        for name in names
    }


def assert_agree(expected, state):
    """Every array lies where it was said to, and nothing else is in the tree."""
    assert jax.tree.structure(expected) == jax.tree.structure(state)
    for (path, said), array in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(state)):
        assert said.is_equivalent_to(array.sharding, array.ndim), (jax.tree_util.keystr(path), said, array.sharding)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["automatic", "explicit"])
@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_it_is_what_init_gives(row: Row, kind: AxisType):
    mesh, tx = mesh_of(kind), row.build()
    shapes = abstract(mesh, ["matrix", "wide", "stack", "vector", "scalar"])
    expected = gradtx.state_shardings(tx, shapes)
    with jax.set_mesh(mesh):
        params = {k: jax.device_put(np.ones(x.shape, np.float32), x.sharding) for k, x in shapes.items()}
        assert_agree(expected, tx.init(params))
    again = gradtx.state_shardings(tx, params)
    assert jax.tree.map(lambda a, b: a == b, expected, again) == jax.tree.map(lambda _: True, expected)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["automatic", "explicit"])
@pytest.mark.parametrize(
    "tx",
    [
        gradtx.accumulate_gradients(gradtx.adamw(1e-3), 2),
        gradtx.adafactor(1e-3),
        gradtx.inject_hyperparams(gradtx.by_path({"wide": gradtx.lion(1e-3), "**": gradtx.adam(1e-3)})),
        gradtx.chain(gradtx.clip_by_global_norm(1.0), optax.adam(1e-3)),
    ],
    ids=["accumulate", "adafactor", "groups", "foreign"],
)
def test_it_is_what_a_compiled_init_gives(tx, kind):
    mesh = mesh_of(kind)
    shapes = abstract(mesh, ["wide", "vector"])
    expected = gradtx.state_shardings(tx, shapes)
    with jax.set_mesh(mesh):
        params = {k: jax.device_put(np.ones(x.shape, np.float32), x.sharding) for k, x in shapes.items()}
        if kind is AxisType.Explicit or "optax" not in repr(tx):  # whose own init leaves it to the compiler
            assert_agree(expected, jax.jit(tx.init)(params))
        assert_agree(expected, jax.jit(tx.init, out_shardings=expected)(params))


def test_nothing_is_allocated():
    """A trillion parameters on four thousand devices that are not there."""
    mesh = jax.sharding.AbstractMesh((64, 64), AXES)
    params = {"w": jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.bfloat16, sharding=NamedSharding(mesh, jax.P(*AXES)))}
    before = len(jax.live_arrays())
    found = gradtx.state_shardings(gradtx.adamw(1e-3), params)
    assert len(jax.live_arrays()) == before
    assert found.stages[0]["mu"]["w"] == NamedSharding(mesh, jax.P(*AXES))
    assert found.count == NamedSharding(mesh, jax.P())


def test_without_a_mesh_everything_is_on_one_device():
    tx, device = gradtx.adamw(1e-3), jax.devices()[3]
    for params, where in [({"w": jnp.ones(3)}, jax.devices()[0]), ({"w": jax.device_put(jnp.ones(3), device)}, device)]:
        for sharding in jax.tree.leaves(gradtx.state_shardings(tx, params)):
            assert sharding == SingleDeviceSharding(where)


def test_inside_jit():
    """Explicit axes are part of the types there; on automatic ones nobody knows, and that is said."""
    tx = gradtx.adamw(1e-3)
    for kind in (AxisType.Explicit, AxisType.Auto):
        mesh = mesh_of(kind)
        with jax.set_mesh(mesh):
            w = jax.device_put(np.ones((8, 16), np.float32), NamedSharding(mesh, PartitionSpec(*AXES)))
            found = []
            ask = jax.jit(lambda p, found=found: found.append(gradtx.state_shardings(tx, p)))
            if kind is AxisType.Auto:
                with pytest.raises(TypeError, match="leaf w: expected a parameter whose sharding is known"):
                    ask({"w": w})
            else:
                ask({"w": w})
                assert found[0].stages[0]["mu"]["w"].spec == PartitionSpec(*AXES)


def test_parameters_of_two_meshes():
    one, other = jax.make_mesh((8,), ("data",)), jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    params = {
        m: jax.device_put(jnp.ones(8), NamedSharding(mesh, PartitionSpec("data")))
        for m, mesh in zip("ab", (one, other))
    }
    with pytest.raises(ValueError, match="on one mesh or device: leaf a is on .*, leaf b on"):
        gradtx.state_shardings(gradtx.adam(1e-3), params)
