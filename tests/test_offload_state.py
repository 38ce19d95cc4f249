"""State in host memory: the same numbers bit for bit, and the same places after every step."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilers import on_gpus, on_tpus, printed
from jax.extend.core import Literal
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from zoo import ZOO, Row

import gradtx

ROOT = pathlib.Path(__file__).parent.parent
SHAPES = {"matrix": (16, 24), "vector": (16,)}
CHAINS = {
    "adamw": lambda: gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2)),
    "half": lambda: gradtx.with_storage(gradtx.adamw(1e-2), "half", min_size=8),
    "groups": lambda: gradtx.by_path({"vector": "frozen", "**": gradtx.lion(1e-2)}),
    "accumulate": lambda: gradtx.accumulate_gradients(gradtx.muon(1e-2), 2),
    "optax": lambda: gradtx.chain(optax.trace(0.9), gradtx.scale(-0.1)),
}


def mesh_of(kind: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    return jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])


def placed(mesh: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    if mesh is None:
        return jax.tree.map(jnp.asarray, arrays)
    explicit = AxisType.Explicit in mesh.axis_types  # where a compiled step returns an entry a dimension
    specs = {name: PartitionSpec(*[None] * (x.ndim if explicit else 0)) for name, x in arrays.items()}
    return {name: jax.device_put(x, NamedSharding(mesh, specs[name])) for name, x in arrays.items()}


def train(tx: Any, mesh: Any, how: Any = gradtx.step) -> Any:
    params = placed(mesh, 0)
    state = tx.init(params)
    for i in range(3):
        params, state = how(tx, params, state, placed(mesh, i + 1))
    return params, state


def assert_same(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_array_equal(a, np.asarray(b))


def assert_placed(tx: Any, params: Any, state: Any, min_size: int) -> None:
    """What is large is in host memory, and everything is where `state_shardings` says."""
    for said, x in zip(jax.tree.leaves(gradtx.state_shardings(tx, params)), jax.tree.leaves(state)):
        assert x.sharding.memory_kind == ("pinned_host" if x.size >= min_size else "device")
        assert said.is_equivalent_to(x.sharding, x.ndim)
        assert (said.memory_kind or "device") == x.sharding.memory_kind
    assert all(p.sharding.memory_kind == "device" for p in jax.tree.leaves(params))


@pytest.mark.parametrize("name", CHAINS)
def test_the_numbers_are_the_same(name):
    tx = CHAINS[name]()
    away = gradtx.offload_state(tx, min_size=32)
    params, state = train(away, None)
    assert_placed(away, params, state, 32)
    assert any(x.sharding.memory_kind == "pinned_host" for x in jax.tree.leaves(state))
    assert_same((params, state), train(tx, None))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["automatic", "explicit"])
def test_around_a_split_state(kind):
    """Each device's part in its host's memory, from a step of one's own; compiled once."""
    mesh = mesh_of(kind)
    split = gradtx.shard_state(gradtx.adamw(1e-2), mesh, min_size=8)
    away = gradtx.offload_state(split, min_size=32)
    with jax.set_mesh(mesh):
        step = jax.jit(lambda p, s, g: gradtx.step(away, p, s, g), donate_argnums=(0, 1))
        params, state = train(away, mesh, lambda tx, p, s, g: step(p, s, g))
        assert step._cache_size() == 1
        assert_placed(away, params, state, 32)
        mu = state.stages[0]["mu"]["matrix"]
        assert mu.addressable_shards[0].data.size == mu.size // 4
        assert_same((params, state), train(split, mesh))


def test_on_one_device_a_step_is_compiled_once_for_placed_parameters():
    """All of the state is committed from the start, as a step returns it."""
    tx = gradtx.offload_state(gradtx.adamw(1e-2), min_size=32)
    params = jax.device_put(placed(None, 0), jax.devices()[0])
    state, step = tx.init(params), jax.jit(lambda p, s, g: gradtx.step(tx, p, s, g))
    for i in range(2):
        params, state = step(params, state, placed(None, i + 1))
    assert step._cache_size() == 1


def test_by_optax_protocol_eager_and_compiled():
    tx = gradtx.adamw(1e-2)
    away = gradtx.offload_state(tx, min_size=32)

    def by_hand(tx: Any, params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for how in (by_hand, jax.jit(by_hand)):
        params, state = train(away, None, how)
        assert_placed(away, params, state, 32)
        assert_same((params, state), train(tx, None, how))
    start = jax.jit(away.init)(params)
    assert_placed(away, params, start, 32)


@pytest.mark.slow
@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_the_numbers_of_everything_are_the_same(row: Row):
    shapes = {"first": (16, 24), "matrix": (16, 16), "second": (16, 24), "third": (16, 24), "vector": (43,)}
    rng = np.random.default_rng(0)
    trees = [{name: jnp.asarray(rng.normal(size=s), row.dtype) for name, s in shapes.items()} for _ in range(4)]

    def run(tx: Any) -> Any:
        params, state = trees[0], tx.init(trees[0])
        for grads in trees[1:]:
            params, state = gradtx.step(tx, params, state, grads, donate=False, **row.keywords)
        return params, state

    assert_same(run(gradtx.offload_state(row.build(), min_size=32)), run(row.build()))


STREAMED = {
    "adamw": lambda: gradtx.adamw(1e-2),
    "clipped": lambda: gradtx.chain(
        gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2), gradtx.clip_by_global_norm(1.0)
    ),
    "groups": lambda: gradtx.by_path({"layer_0": gradtx.adam(1e-3), "**": gradtx.adamw(1e-2)}),
    "injected": lambda: gradtx.inject_hyperparams(gradtx.adamw(1e-2)),
    "every": lambda: gradtx.accumulate_gradients(gradtx.adamw(1e-2), 1),
    "split": lambda: gradtx.shard_state(gradtx.adamw(1e-2), mesh_of(), min_size=8),
}


def sent_before(program: Any, name: str, *args: Any) -> list[int]:
    """For each array that a jitted function brings to the device, how many have to be in host memory again before."""
    (call,) = [e for e in jax.make_jaxpr(program)(*args).jaxpr.eqns if e.params.get("name") == name]
    needs: dict[Any, set[Any]] = {}
    found = []
    for e in call.params["jaxpr"].jaxpr.eqns:
        before = set().union(*(needs.get(v, ()) for v in e.invars if not isinstance(v, Literal)))
        if e.primitive.name == "device_put" and e.outvars[0].aval.memory_space == jax.memory.Space.Host:
            before |= {e.outvars[0]}
        elif e.primitive.name == "device_put":
            found.append(len(before))
        needs.update(dict.fromkeys(e.outvars, before))
    return found


@pytest.mark.parametrize("name", STREAMED)
def test_the_slots_of_two_parameters_at_a_time(name):
    """Those of a parameter come when those of the last but one are back, as all that comes and goes depends on it."""
    params = {f"layer_{i}": jnp.ones((16, 24)) * i for i in range(7)}
    away = gradtx.offload_state(STREAMED[name](), min_size=32)
    state = away.init(params)
    expected = [0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6]  # every other parameter waits for those before it
    assert sent_before(lambda p, s, g: away.update(g, s, p), "_update", params, state, params) == expected
    stepped = sent_before(lambda p, s, g: gradtx.step(away, p, s, g), "gradtx_step", params, state, params)
    assert stepped == expected


def test_what_comes_at_once():
    """All slots of a treewise stage; of an Optax stage an array at a time; and what a step leaves as it is stays there."""
    params = {f"layer_{i}": jnp.ones((16, 24)) * i for i in range(5)}

    def of(tx: Any) -> list[int]:
        away = gradtx.offload_state(tx, min_size=32)
        return sent_before(lambda p, s, g: gradtx.step(away, p, s, g), "gradtx_step", params, away.init(params), params)

    assert of(gradtx.prodigy()) == [0] * 20  # two moments, the parameters at the start, a sum of gradients
    assert of(optax.trace(0.9)) == [0, 0, 1, 1, 2]


def test_a_state_from_the_device():
    """A state that `offload_state` did not make goes home at its first step."""
    tx = gradtx.adamw(1e-2)
    away = gradtx.offload_state(tx, min_size=32)
    params, grads = placed(None, 0), placed(None, 1)
    got = gradtx.step(away, params, tx.init(params), grads, donate=False)
    assert_placed(away, *got, 32)
    assert_same(got, gradtx.step(tx, params, tx.init(params), grads))


def test_hypergradients():
    """Through two steps, whose state lies in host memory in between."""
    params = placed(None, 0)

    def loss(learning_rate: Any, tx: Any) -> Any:
        tx = tx.replace(learning_rate=learning_rate)
        p, state = params, tx.init(params)
        for _ in range(2):
            updates, state = tx.update(p, state, p)
            p = optax.apply_updates(p, updates)
        return sum(jnp.sum(x * x) for x in jax.tree.leaves(p))

    tx = gradtx.adamw(1e-2)
    got, want = (jax.jit(jax.grad(loss))(1e-2, t) for t in (gradtx.offload_state(tx, min_size=32), tx))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_it_is_seen_and_saved(tmp_path):
    """Plans, decoded slots, new numbers and checkpoints, into and out of host memory."""
    ocp = pytest.importorskip("orbax.checkpoint")
    tx = gradtx.adamw(1e-2, storage="half")
    away = gradtx.offload_state(tx, min_size=32)
    params, state = train(away, None)
    assert_same(gradtx.slots(away, state), gradtx.slots(tx, train(tx, None)[1]))
    doubled = gradtx.map_slots(lambda x: 2 * x, away, state, "nu")
    assert_placed(away, params, doubled, 32)
    nu = gradtx.get_slot(away, state, "nu")["matrix"]
    np.testing.assert_allclose(gradtx.get_slot(away, doubled, "nu")["matrix"], 2 * nu, rtol=2**-6)
    assert gradtx.memory_plan(away, params).bytes == gradtx.memory_plan(tx, params).bytes
    faster = away.replace(learning_rate=0.1)
    assert faster == gradtx.offload_state(tx.replace(learning_rate=0.1), min_size=32)
    assert repr(away) == f"offload_state({tx!r}, min_size=32)"
    gradtx.check_state(away, params, state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", state)
        checkpointer.wait_until_finished()
        for other in (away, tx):
            restored = checkpointer.restore(tmp_path / "run", gradtx.abstract_state(other, params))
            assert_same(restored, state)
            assert_placed(other, params, restored, 32 if other is away else 1 << 20)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"offload_state\(min_size=...\): expected an integer >= 0, got -1"):
        gradtx.offload_state(gradtx.adam(1e-2), min_size=-1)
    with pytest.raises(TypeError, match="offload_state: expected a gradtx or Optax transformation"):
        gradtx.offload_state(gradtx.adam)
    with pytest.raises(TypeError, match=r"offload_state belongs around it: offload_state\(shard_state\(tx, mesh\)\)"):
        gradtx.shard_state(gradtx.offload_state(gradtx.adam(1e-2)), mesh_of())


def rows(layers: int, *more: str) -> Any:
    """Without and with `offload_state`, `layers` matrices of 2048 x 4096 whose state is split over 8 devices."""
    names = ["shard_state", "shard_state, offload_state"]
    lines = printed("-m", "benchmarks.zero", "--json", "--layers", str(layers), *more, "--only", *names).splitlines()
    split, away = map(json.loads, lines)
    moved = layers * SLOTS
    assert (split["host_bytes"], away["host_bytes"]) == (0, 2 * moved)
    assert away["argument_bytes"] == split["argument_bytes"] - moved
    assert away["counts"] == split["counts"]
    return split, away


SLOTS = 2 * 4 * 2048 * 4096 // 8  # two moments of a matrix


@on_tpus
def test_programs_for_a_tpu():
    """The state is no argument of the device; what crosses is the state, there and back; little of it is there at once."""
    split, away = rows(2)
    assert away["peak_bytes"] < split["peak_bytes"] - 2 * SLOTS
    split, away = rows(8)
    assert away["temp_bytes"] < split["temp_bytes"]
    assert away["peak_bytes"] < split["peak_bytes"] - 7 * SLOTS


@on_gpus
def test_programs_for_gpus():
    """However many layers, the slots of two are on the device at a time."""
    for layers in (4, 8):
        split, away = rows(layers, "--topology", "h100:8")
        assert away["temp_bytes"] < split["temp_bytes"] + 1.2 * SLOTS
        assert away["peak_bytes"] < split["peak_bytes"] - (layers - 1.2) * SLOTS


def test_a_state_in_host_memory_without_the_wrapper():
    """What to do is said, and nothing is used up."""
    params = {"w": jnp.ones((8, 8))}
    tx = gradtx.adam(1e-3)
    state = gradtx.offload_state(tx, min_size=8).init(params)
    with pytest.raises(ValueError, match=r"leaf stages/0/mu/w of the state lies in the memory of the host.*device_put"):
        gradtx.step(tx, params, state, params)
    moved = jax.device_put(state, gradtx.state_shardings(tx, params))
    gradtx.step(tx, params, moved, {"w": jnp.ones((8, 8))})
