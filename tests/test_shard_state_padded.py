"""`shard_state(pad=True)`: what an axis does not divide is padded, and trains as without."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_shard_state import placed, words
from zoo import OPTIMIZERS, Row

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Of 6 and of 8 devices none divides a dimension of the matrices or of the vector; the last is smaller than min_size.
SHAPES = {"matrix": (17, 25), "wide": (5, 67), "vector": (43,), "small": (3,)}
HALF = {"storage": "half"}


def mesh_of(count: int, kind: AxisType = AxisType.Auto) -> Any:
    return jax.make_mesh((count,), ("data",), axis_types=(kind,), devices=jax.devices()[:count])


def params_on(mesh: Any, seed: int, layout: Any = None, dtype: Any = jnp.float32, shapes: Any = SHAPES) -> Any:
    return placed(mesh, layout or {}, seed, dtype, shapes)


def train(
    tx: Any, mesh: Any, steps: int = 3, *, layout: Any = None, dtype: Any = jnp.float32, start: Any = None
) -> Any:
    """Parameters and state after some steps; `start`: those before, and the number of steps that they have made."""
    params, state, first = start or (params_on(mesh, 0, layout, dtype), None, 0)
    state = tx.init(params) if state is None else state
    for i in range(first, first + steps):
        params, state = gradtx.step(tx, params, state, params_on(mesh, i + 1, layout, dtype))
    return params, state


def assert_split(tx: Any, params: Any, state: Any, count: int) -> None:
    """Parameters keep shape and place; of every large array of the state each device holds a part, and no more."""
    for name, p in params.items():
        assert p.shape == SHAPES[name]
        assert p.sharding.is_fully_replicated
    said = gradtx.abstract_state(tx, params)
    assert jax.tree.structure(said) == jax.tree.structure(state)
    for want, x in zip(jax.tree.leaves(said), jax.tree.leaves(state), strict=True):
        assert (x.shape, x.dtype) == (want.shape, want.dtype)
        assert x.sharding.is_equivalent_to(want.sharding, x.ndim)
        assert x.addressable_shards[0].data.size == (x.size // count if x.size > 3 else x.size)
    plan = gradtx.memory_plan(tx, params)
    assert plan.device_bytes == sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))


def assert_same(got: Any, want: Any, rtol: float = 0.0) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=rtol / 100)


CHAINS = {
    "adamw": lambda: gradtx.adamw(1e-2),
    "half": lambda: gradtx.with_storage(gradtx.adamw(1e-2), "half", min_size=8),
    "accumulate": lambda: gradtx.accumulate_gradients(gradtx.adam(1e-2), 2),
    "groups": lambda: gradtx.by_path({"vector": gradtx.sgd(0.1, momentum=0.9), "**": gradtx.lion(1e-2)}),
    "inject": lambda: gradtx.inject_hyperparams(gradtx.adamw(1e-2)),
    "clipped": lambda: gradtx.chain(
        gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2), gradtx.average_parameters(0.9)
    ),
    "lamb": lambda: gradtx.lamb(1e-2),
}
EXACT = {"adamw", "half", "accumulate", "groups", "inject"}  # the others take sums, over parts


@pytest.mark.parametrize("count", [6, 8])
@pytest.mark.parametrize("name", CHAINS)
def test_it_trains_as_without(name, count):
    if count == 6 and name not in ("adamw", "half", "clipped"):
        return
    mesh, tx = mesh_of(count), CHAINS[name]()
    padded = gradtx.shard_state(tx, mesh, min_size=8, pad=True)
    params, state = train(padded, mesh)
    assert_split(padded, params, state, count)
    expected = train(tx, mesh_of(1))
    rtol = 0.0 if name in EXACT else 1e-5
    assert_same(params, expected[0], rtol)
    assert_same(gradtx.repad_state(state, tx, params_on(mesh_of(1), 0)), expected[1], rtol)


@pytest.mark.parametrize("rounding", [gradtx.stochastic_rounding, gradtx.compensated, gradtx.master_weights])
def test_parameters_are_rounded_to_the_same_bits(rounding):
    mesh, tx = mesh_of(6), gradtx.chain(gradtx.adamw(1e-2), rounding())
    padded = gradtx.shard_state(tx, mesh, min_size=8, pad=True)
    params, state = train(padded, mesh, dtype=jnp.bfloat16)
    assert_split(padded, params, state, 6)
    # Random bits follow from an element's place, which another length of the last dimension would change.
    longer = "[6, 67]" if rounding is gradtx.stochastic_rounding else "[5, 72]"
    assert f"bfloat16[5, 67] padded to {longer}" in padded.table(params)
    assert_same(params, train(tx, mesh_of(1), dtype=jnp.bfloat16)[0])


def test_optax_protocol_and_a_jitted_step():
    """`update` gives updates like the parameters; inside a training step nothing compiles twice, and all is donated."""
    mesh, tx = mesh_of(8), gradtx.adamw(1e-2)
    padded = gradtx.shard_state(tx, mesh, min_size=8, pad=True)
    params, grads = params_on(mesh, 0), params_on(mesh, 1)
    state = jax.jit(padded.init)(params)
    updates, after = padded.update(grads, state, params)
    assert all(updates[name].shape == shape for name, shape in SHAPES.items())
    expected = gradtx.step(tx, params, tx.init(params), grads, donate=False)
    assert_same(gradtx.apply_updates(params, updates), expected[0], 1.2e-7)  # the sum in another program
    assert_split(padded, params, after, 8)
    step = jax.jit(lambda p, s, g: gradtx.step(padded, p, s, g), donate_argnums=(0, 1))
    for seed in (1, 2):
        old = params, state
        params, state = step(params, state, params_on(mesh, seed))
        assert all(x.is_deleted() for x in jax.tree.leaves(old))
    assert step._cache_size() == 1
    assert_same(params, train(tx, mesh_of(1), 2)[0])


WRAPPERS = {
    "accumulate": lambda tx: gradtx.accumulate_gradients(tx, 2),
    "skip": gradtx.skip_nonfinite,
    "chain": lambda tx: gradtx.chain(gradtx.clip(1.0), tx),
    "optax": lambda tx: optax.MultiSteps(tx, 2),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_inside_of_others(name):
    """What goes around it sees parameters and updates as they are."""
    mesh, inside = mesh_of(8), gradtx.adamw(1e-2)
    results = []
    for tx, place in ((gradtx.shard_state(inside, mesh, min_size=8, pad=True), mesh), (inside, mesh_of(1))):
        around, params = WRAPPERS[name](tx), params_on(place, 0)
        state = around.init(params)
        for seed in (1, 2):
            with jax.numpy_dtype_promotion("standard"):  # Optax's is not strict
                updates, state = around.update(params_on(place, seed), state, params)
            params = gradtx.apply_updates(params, updates)
        results.append(params)
    assert_same(*results)


def test_in_host_memory():
    """`offload_state` around it, and from there to another number of devices."""
    tx, on = gradtx.adamw(1e-2, mu_dtype=jnp.bfloat16), {}
    for count in (8, 6):
        on[count] = gradtx.offload_state(gradtx.shard_state(tx, mesh_of(count), min_size=8, pad=True), min_size=8)
    params, state = train(on[8], mesh_of(8), 2)
    assert state.stages[0]["mu"]["matrix"].sharding.memory_kind == "pinned_host"
    moved = jax.device_put(jax.tree.map(np.asarray, params), NamedSharding(mesh_of(6), PartitionSpec()))
    state = gradtx.repad_state(state, on[6], moved)
    assert state.stages[0]["mu"]["matrix"].sharding.memory_kind == "pinned_host"
    params, _ = train(on[6], mesh_of(6), 1, start=(moved, state, 2))
    assert_same(params, train(tx, mesh_of(1), 3)[0])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["automatic", "explicit"])
def test_tensor_parallel_parameters_keep_their_split(kind):
    """On two axes, of which one splits parameters: they come out as they went in, and the padding is along the other."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    layout, shapes = {"matrix": (None, "model"), "vector": ("model",)}, {"matrix": (17, 26), "vector": (42,)}

    def run(tx: Any, mesh: Any, layout: Any) -> Any:
        params = params_on(mesh, 0, layout, shapes=shapes)
        state = tx.init(params)
        for seed in (1, 2):
            params, state = gradtx.step(tx, params, state, params_on(mesh, seed, layout, shapes=shapes))
        return params, state

    tx = gradtx.chain(gradtx.clip(1.0), gradtx.adamw(1e-2))
    padded = gradtx.shard_state(tx, mesh, min_size=8, pad=True)
    with jax.set_mesh(mesh):
        params, state = run(padded, mesh, layout)
        for name, p in params.items():
            assert p.sharding.is_equivalent_to(NamedSharding(mesh, words(mesh, layout[name], p.ndim)), p.ndim)
        mu = state.stages[1]["mu"]
        assert mu["matrix"].shape == (20, 26)
        assert mu["matrix"].addressable_shards[0].data.size == 20 * 26 // 8
        assert mu["vector"].shape == (42,)  # split already where it belongs
        assert "vector  float32[42]  " in padded.table(params)
        assert "not padded: every dimension is split already" in padded.table(params)
    assert_same(params, run(tx, mesh_of(1), {})[0])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["automatic", "explicit"])
def test_two_axes_of_which_one_divides(kind):
    """What the second divides is scattered over that before it is padded for the first."""
    mesh = jax.make_mesh((3, 2), ("host", "chip"), axis_types=(kind, kind), devices=jax.devices()[:6])
    tx, shapes = gradtx.adamw(1e-2), {"matrix": (16, 10), "vector": (32,)}
    padded = gradtx.shard_state(tx, mesh, ("host", "chip"), min_size=8, pad=True)
    with jax.set_mesh(mesh):
        params = params_on(mesh, 0, shapes=shapes)
        state = padded.init(params)
        for seed in (1, 2):
            params, state = gradtx.step(padded, params, state, params_on(mesh, seed, shapes=shapes))
        nu = state.stages[1]["nu"]
        assert all(x.addressable_shards[0].data.size == x.size // 6 for x in nu.values())
        assert nu["vector"].shape == (36,)
    one = mesh_of(1)
    want = params_on(one, 0, shapes=shapes)
    state = tx.init(want)
    for seed in (1, 2):
        want, state = gradtx.step(tx, want, state, params_on(one, seed, shapes=shapes))
    assert_same(params, want)


def test_what_may_not_be_padded_is_whole_and_says_why():
    mesh = mesh_of(8)
    params = params_on(mesh, 0)
    tx = gradtx.by_path(
        {
            "vector": gradtx.chain(gradtx.clip_by_block_rms(1.0), gradtx.sgd(0.1, momentum=0.9)),
            "wide": gradtx.with_storage(gradtx.sgd(0.1, momentum=0.9), "half", min_size=336),
            "**": gradtx.adamw(1e-2),
        }
    )
    padded = gradtx.shard_state(tx, mesh, min_size=8, pad=True)
    table = padded.table(params)
    lines = {line.split()[0]: line for line in table.splitlines()[1:]}
    assert "float32[17, 25] padded to [24, 25]  P() -> P('data',)" in lines["matrix"].replace("PartitionSpec", "P")
    assert "not split: fewer than min_size elements" in lines["small"]
    assert "not padded: clip_by_block_rms does not ignore zeros" in lines["vector"]
    assert_same(train(padded, mesh)[0], train(tx, mesh_of(1))[0], 1e-5)


def test_the_memory_plan_lists_the_zeros():
    mesh = mesh_of(8)
    padded = gradtx.shard_state(gradtx.sgd(0.1, momentum=0.9), mesh, min_size=8, pad=True)
    plan = gradtx.memory_plan(padded, params_on(mesh, 0))
    zeros = 4 * (7 * 25 + 5 * 5 + 5)
    assert plan.padded[0] == ("stages/0/trace/matrix", "float32[17, 25] to [24, 25]", 4 * 7 * 25)
    assert f"zeros that pad: {zeros:,} bytes: stages/0/trace/matrix float32[17, 25] to [24, 25], " in str(plan)
    assert plan.bytes == 4 * (17 * 25 + 5 * 67 + 43 + 3 + 1) + zeros


def test_a_mask_that_looks_at_shapes_is_obeyed():
    """What decides by size whether a stage acts on a leaf sees the same as without."""
    mesh = mesh_of(8)
    tx = gradtx.adamw(1e-2, mask=lambda params: jax.tree.map(lambda p: p.shape[0] % 8 == 0, params))
    padded = gradtx.shard_state(tx, mesh, min_size=8, pad=True)
    params, _ = train(padded, mesh)
    assert "not padded: decoupled_weight_decay acts on it or not by its shape" in padded.table(params)
    assert_same(params, train(tx, mesh_of(1))[0])


@pytest.mark.parametrize("name", ["adamw", "half"])
def test_from_8_devices_to_6_and_to_1(name):
    """Mid-training, by `repad_state`: as one device that never stopped, bit for bit."""
    tx = CHAINS[name]()
    on = {n: gradtx.shard_state(tx, mesh_of(n), min_size=8, pad=True) for n in (8, 6)}
    params, state = train(on[8], mesh_of(8), 2)
    for count, now in ((6, on[6]), (1, tx)):
        mesh = mesh_of(count)
        moved = jax.device_put(jax.tree.map(np.asarray, params), NamedSharding(mesh, PartitionSpec()))
        with pytest.raises(ValueError, match=r"padding: .*gradtx.repad_state\(state, tx, params\)"):
            gradtx.check_state(now, moved, state)
        with pytest.raises(ValueError, match=r"padding: .*gradtx.repad_state\(state, tx, params\)"):
            gradtx.check_state(now, moved, gradtx.state_manifest(on[8 if count == 6 else 6], params))
        state = gradtx.repad_state(state, now, moved)
        gradtx.check_state(now, moved, state)
        params, state = train(now, mesh, 2, start=(moved, state, 2 if count == 6 else 4))
    assert_same((params, state), train(tx, mesh_of(1), 6))


def test_repad_state_refuses_what_is_no_padding():
    mesh, tx = mesh_of(8), gradtx.sgd(0.1, momentum=0.9)
    padded = gradtx.shard_state(tx, mesh, min_size=8, pad=True)
    params = params_on(mesh, 0)
    state = train(padded, mesh)[1]

    def other(change: Any) -> Any:
        trace = state.stages[0]["trace"]
        return state._replace(stages=({"trace": {**trace, "matrix": change(trace["matrix"])}}, *state.stages[1:]))

    for change, said in (
        (lambda x: x.at[20, 3].set(1), r"behind 17 along dimension 0, got float32\[24, 25\] with several values there"),
        (
            lambda x: jnp.pad(x, [(0, 0), (0, 7)]),
            r"expected float32\[17, 25\], or that with zeros.*got float32\[24, 32\]",
        ),
        (lambda x: x[:16], r"expected float32\[17, 25\].*got float32\[16, 25\]"),
        (lambda x: x.astype(jnp.bfloat16), r"expected float32\[17, 25\].*got bfloat16\[24, 25\]"),
    ):
        with pytest.raises(ValueError, match=r"repad_state: leaf stages/0/trace/matrix: .*" + said):
            gradtx.repad_state(other(change), tx, params)
    with pytest.raises(
        ValueError, match=r"repad_state: expected a tree like the state of .*check_state says what differs"
    ):
        gradtx.repad_state(state, gradtx.adam(1e-2), params)
    for now, old in ((padded, tx.init(params)), (tx, state)):
        with pytest.raises(ValueError, match=r"leaf matrix: .*or padded for other devices \(gradtx.repad_state\)\?"):
            gradtx.step(now, params, old, params, donate=False)
    for wrong, said in (
        ((tx, state, params), r"expected a gradtx transformation as tx, got State"),
        (
            (jax.eval_shape(padded.init, params), tx, params),
            r"leaf count: expected a jax or NumPy array, got ShapeDtypeStruct",
        ),
    ):
        with pytest.raises(TypeError, match=said):
            gradtx.repad_state(*wrong)


def test_repad_state_takes_the_state_of_a_failed_run():
    """A norm that is NaN makes the padding NaN, which is one value throughout."""
    mesh, tx = mesh_of(8), gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.sgd(0.1, momentum=0.9))
    padded, params = gradtx.shard_state(tx, mesh, min_size=8, pad=True), params_on(mesh, 0)
    _, state = padded.update(jax.tree.map(lambda p: p * jnp.nan, params), padded.init(params), params)
    assert jnp.isnan(state.stages[1]["trace"]["matrix"][-1, -1])
    again = gradtx.repad_state(state, tx, params)
    assert again.stages[1]["trace"]["matrix"].shape == (17, 25)


def test_repad_state_makes_arrays_of_their_own():
    """A step that takes them uses up none that went in; also of a whole array in host memory, to one device."""
    mesh, tx = mesh_of(8), gradtx.chain(gradtx.sgd(0.1, momentum=0.9), gradtx.stochastic_rounding())
    padded = gradtx.shard_state(tx, mesh, min_size=8, pad=True)
    shapes = {"matrix": (1, 41)}  # random bits: its first dimension only might be padded, and is no help
    params = params_on(mesh, 0, dtype=jnp.bfloat16, shapes=shapes)
    alone = jax.device_put(params, jax.devices()[0])
    away = gradtx.offload_state(padded, min_size=8)
    old = away.init(params)
    for now, given in ((padded, params), (tx, alone)):
        state = gradtx.repad_state(old, now, given)
        assert_same(state, old)
        gradtx.step(now, jax.tree.map(jnp.copy, given), state, given)
    assert not any(x.is_deleted() for x in jax.tree.leaves(old))


@pytest.mark.parametrize("shape", [(24, 25), (18, 25), (16, 25), (17, 1), (25, 17), (1,)])
def test_gradients_of_another_shape_are_refused_before_they_are_padded(shape):
    mesh = mesh_of(8)
    tx = gradtx.shard_state(gradtx.adam(1e-2), mesh, min_size=8, pad=True)
    params = params_on(mesh, 0)
    state, grads = tx.init(params), {**params, "matrix": jnp.ones(shape)}
    for step in (
        lambda: gradtx.step(tx, params, state, grads),
        lambda: jax.jit(lambda p, s, g: gradtx.step(tx, p, s, g))(params, state, grads),
        lambda: tx.update(grads, state, params),
    ):
        with pytest.raises(ValueError, match=r"leaf matrix: expected a gradient of the parameter's shape \(17, 25\)"):
            step()


def test_it_compares_and_prints_and_checks_its_argument():
    mesh = jax.sharding.AbstractMesh((8,), ("data",))
    tx = gradtx.sgd(0.1)
    assert gradtx.shard_state(tx, mesh, pad=True) != gradtx.shard_state(tx, mesh)
    assert "pad=True" in repr(gradtx.shard_state(tx, mesh, pad=True))
    with pytest.raises(ValueError, match=r"shard_state\(pad=...\): expected True or False, got 8"):
        gradtx.shard_state(tx, mesh, pad=8)


@pytest.mark.slow
@pytest.mark.parametrize("row", OPTIMIZERS, ids=lambda row: row.name)
def test_every_optimizer_trains_as_without(row: Row):
    """Padded or, where a stage does not ignore zeros, whole."""
    shapes = {"matrix": (17, 17), "vector": (43,), "small": (3,)}  # SOAP: square, see test_shard_state.py

    def run(tx: Any, mesh: Any) -> Any:
        params = params_on(mesh, 0, shapes=shapes)
        state = tx.init(params)
        for i in range(3):
            grads = params_on(mesh, i + 1, shapes=shapes)
            params, state = gradtx.step(tx, params, state, grads, **row.keywords)
        return params, state

    mesh, tx = mesh_of(8), row.build()
    padded = gradtx.shard_state(tx, mesh, min_size=8, pad=True)
    params, state = run(padded, mesh)
    want, after = run(tx, mesh_of(1))
    for got, expected in zip(jax.tree.leaves(params), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-3, atol=1e-4)
    assert jax.tree.structure(gradtx.repad_state(state, tx, want)) == jax.tree.structure(after)
