"""State kept by codecs: any chain, any slot, and nothing else changes."""

from __future__ import annotations

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

import gradtx
from gradtx import storage
from gradtx._core.plain import coded_state, plain_state

pytestmark = pytest.mark.usefixtures("quick_compilation")

FEW = ["half", "quarter", "log16"]
STORAGES = ["half", "quarter", "bfloat16", "float16", "log16"]
EXACT = {"half": 0.02, "quarter": 0.5, "bfloat16": 0.05, "float16": 0.05, "log16": 0.01}  # of the largest update


def large(dtype: Any = jnp.float32) -> dict[str, Any]:
    """A matrix that codecs keep, and a vector that is too small for them."""
    rng = np.random.default_rng(0)
    return {
        "matrix": jnp.asarray(rng.normal(size=(64, 80)), dtype),
        "vector": jnp.asarray(rng.normal(size=(7,)), dtype),
        "none": None,
    }


def trained(tx: Any, tree: Any, steps: int = 6) -> tuple[Any, Any]:
    state = tx.init(tree)
    update = jax.jit(tx.update)
    updates = tree
    for i in range(steps):
        updates, state = update(samples.grads_like(tree, seed=i), state, tree)
    return updates, state


def dtypes_of(tree: Any) -> set[str]:
    return {str(x.dtype) for x in jax.tree.leaves(tree) if x.ndim or x.dtype == jnp.int32}  # without a grid's scale


# ---- what is kept, and what follows ----


@pytest.mark.parametrize("kind", STORAGES)
def test_large_leaves_are_kept_in_fewer_bytes_and_the_update_is_near(kind: str):
    tree = large()
    plain, coded = gradtx.adamw(1e-2), gradtx.adamw(1e-2, storage=kind)
    expected, full = trained(plain, tree)
    updates, state = trained(coded, tree)
    np.testing.assert_array_equal(updates["vector"], expected["vector"])  # too small: as it was
    scale = float(jnp.max(jnp.abs(expected["matrix"])))
    assert 0 < float(jnp.max(jnp.abs(updates["matrix"] - expected["matrix"]))) < EXACT[kind] * scale
    small, before = (sum(x.nbytes for x in jax.tree.leaves(s)) for s in (state, full))
    assert small < (0.3 if kind == "quarter" else 0.52) * before
    chex.assert_trees_all_equal(samples.avals(state), samples.avals(coded.init(tree)))


@pytest.mark.parametrize("kind", STORAGES)
def test_decoded_and_encoded_again_a_state_is_the_same(kind: str):
    tree, tx = large(), gradtx.adamw(1e-2, storage=kind)
    _, state = trained(tx, tree)
    plain = plain_state(tx, state)
    _, full = trained(gradtx.adamw(1e-2), tree)
    assert jax.tree.structure(plain) == jax.tree.structure(full)
    assert dtypes_of(plain) == {"float32", "int32"}
    again = coded_state(tx, plain, state)
    chex.assert_trees_all_equal(again, state)


@pytest.mark.parametrize("kind", STORAGES)
def test_a_fresh_state_stands_for_zeros(kind: str):
    tree, tx = large(), gradtx.chain(gradtx.trace(0.9), gradtx.scope(gradtx.adam(1e-2)))
    state = gradtx.with_storage(tx, kind).init(tree)
    plain = plain_state(gradtx.with_storage(tx, kind), state)
    for leaf in jax.tree.leaves(plain):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("kind", STORAGES)
def test_zero_gradients_move_nothing(kind: str):
    tree = jax.tree.map(jnp.zeros_like, large())
    tx = gradtx.adam(1e-2, eps=0.0, storage=kind)
    state = tx.init(tree)
    for _ in range(3):
        updates, state = tx.update(tree, state, tree)
        for leaf in jax.tree.leaves(updates):
            np.testing.assert_array_equal(leaf, 0)
    for leaf in jax.tree.leaves(plain_state(tx, state).stages):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("kind", ["half", "quarter"])
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6])
def test_no_scale_of_the_gradient_saturates(kind: str, scale: float):
    tree = {"matrix": jnp.zeros((64, 80))}
    tx, reference = gradtx.adam(1.0, eps=0.0, storage=kind), gradtx.adam(1.0, eps=0.0)
    state, full = tx.init(tree), reference.init(tree)
    update, exact = jax.jit(tx.update), jax.jit(reference.update)
    for i in range(20):
        grads = samples.grads_like(tree, seed=i, scale=scale)
        updates, state = update(grads, state)
        expected, full = exact(grads, full)
    apart = jnp.linalg.norm(updates["matrix"] - expected["matrix"]) / jnp.linalg.norm(expected["matrix"])
    assert float(apart) < (0.02 if kind == "half" else 0.25), float(apart)


@pytest.mark.parametrize("kind", ["half", "quarter"])
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_sudden_change_of_scale_recovers(kind: str, factor: float):
    tree = {"matrix": jnp.zeros((64, 80))}
    tx, reference = gradtx.adam(1.0, b2=0.9, storage=kind), gradtx.adam(1.0, b2=0.9)
    state, full = tx.init(tree), reference.init(tree)
    update, exact = jax.jit(tx.update), jax.jit(reference.update)
    for i in range(300):
        grads = samples.grads_like(tree, seed=i, scale=1.0 if i < 20 else factor)
        updates, state = update(grads, state)
        expected, full = exact(grads, full)
        assert bool(jnp.isfinite(updates["matrix"]).all())
        assert float(jnp.abs(updates["matrix"]).max()) < 8
    apart = jnp.linalg.norm(updates["matrix"] - expected["matrix"]) / jnp.linalg.norm(expected["matrix"])
    assert float(apart) < (0.02 if kind == "half" else 0.3), float(apart)


def test_a_replaced_decay_does_not_misread_old_codes():
    tree = {"matrix": jnp.zeros((64, 80))}
    update = jax.jit(lambda tx, *a: tx.update(*a))
    for kind in ("half", "quarter"):
        tx, reference = gradtx.adam(1.0, storage=kind), gradtx.adam(1.0)
        state, full = tx.init(tree), reference.init(tree)
        for i in range(12):
            if i == 6:
                tx, reference = tx.replace(b2=0.5), reference.replace(b2=0.5)
            grads = samples.grads_like(tree, seed=i)
            updates, state = update(tx, grads, state)
            expected, full = update(reference, grads, full)
        apart = jnp.linalg.norm(updates["matrix"] - expected["matrix"]) / jnp.linalg.norm(expected["matrix"])
        assert float(apart) < (0.02 if kind == "half" else 0.3), (kind, float(apart))


def test_slots_by_name_whatever_they_are_kept_in():
    tree = large()
    tx = gradtx.accumulate_gradients(gradtx.chain(gradtx.trace(0.5), gradtx.scope(gradtx.adam(1e-2))), 2)
    coded = gradtx.with_storage(tx, "half")
    (_, full), (_, state) = trained(tx, tree), trained(coded, tree)
    expected, got = gradtx.slots(tx, full), gradtx.slots(coded, state)
    assert list(got) == list(expected)
    assert {"trace", "mu", "nu"} <= set(got)
    for name in ("trace", "mu", "nu"):
        chex.assert_trees_all_close(got[name], expected[name], rtol=0.01, atol=5e-3)


def test_a_running_state_moves_to_another_storage():
    tree = large()
    plain, coded = gradtx.adam(1e-2), gradtx.adam(1e-2, storage="half")
    _, full = trained(plain, tree)
    moved = gradtx.carry_state(plain, full, coded, tree)
    chex.assert_trees_all_equal(samples.avals(moved), samples.avals(coded.init(tree)))
    grads = samples.grads_like(tree, seed=9)
    chex.assert_trees_all_close(coded.update(grads, moved)[0], plain.update(grads, full)[0], atol=2e-4)


# ---- any chain, any slot ----


def test_one_slot_by_its_name():
    tree = large()
    _, state = trained(gradtx.with_storage(gradtx.adam(1e-2), nu="bfloat16"), tree)
    assert dtypes_of(state.stages[0]) == {"float32"}
    assert dtypes_of(state.stages[1]) == {"float32", "bfloat16"}
    _, state = trained(gradtx.with_storage(gradtx.adam(1e-2), "half", nu="float32"), tree)
    assert dtypes_of(state.stages[1]) == {"float32"}
    assert state.stages[0]["mu"]["matrix"].nbytes == 64 * 80 * 2


def test_every_slot_that_mirrors_its_parameter():
    tx = gradtx.with_storage(gradtx.prodigy(), parameter="bfloat16")
    _, state = trained(tx, large())
    (entry,) = state.stages
    assert {name for name, x in entry.items() if "bfloat16" in dtypes_of(x)} == {"mu", "nu", "grad_sum", "params0"}
    np.testing.assert_allclose(plain_state(tx, state).stages[0]["params0"]["matrix"], large()["matrix"], rtol=2**-8)


@pytest.mark.parametrize("min_size", [0, 10_000])
def test_which_leaves_are_too_small_is_a_choice(min_size: int):
    _, state = trained(gradtx.with_storage(gradtx.adam(1e-2), "half", min_size=min_size), large())
    assert ("uint32" in dtypes_of(state)) == (min_size == 0)
    assert ("float32" in dtypes_of(state)) == (min_size > 0)


def test_stages_between_the_moments_that_leave_the_gradient_alone_keep_them_together():
    for tx in (gradtx.nadam(1e-2), gradtx.ademamix(1e-2)):
        _, state = trained(gradtx.with_storage(tx, "half"), large())
        assert "uint32" in dtypes_of(state)
    apart = gradtx.with_storage(gradtx.adan(1e-2), "half")  # its second moment sees another gradient
    _, state = trained(apart, large())
    assert "uint32" not in dtypes_of(state)
    assert "uint16" in dtypes_of(state)


def test_groups_scopes_masks_and_nested_choices():
    tx = gradtx.with_storage(
        gradtx.by_path(
            {"matrix": gradtx.adamw(1e-2), "**": gradtx.with_storage(gradtx.adam(1e-2), "bfloat16", min_size=0)}
        ),
        "half",
    )
    _, state = trained(tx, large())
    assert dtypes_of(state) == {"uint32", "bfloat16", "int32"}
    expected, _ = trained(gradtx.by_path({"matrix": gradtx.adamw(1e-2), "**": gradtx.adam(1e-2)}), large())
    updates, _ = trained(tx, large())
    chex.assert_trees_all_close(updates, expected, atol=3e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: gradtx.accumulate_gradients(tx, 2),
        gradtx.skip_nonfinite,
        gradtx.inject_hyperparams,
        lambda tx: gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.accumulate_gradients(tx, 1)),
        lambda tx: gradtx.schedule_free(tx, 1e-2),
    ],
)
def test_wrappers(wrap: Any):
    tx = gradtx.with_storage(wrap(gradtx.adam(1e-2)), "half")
    _, state = trained(tx, large())
    assert "uint32" in dtypes_of(state)
    assert eval(repr(tx), {**vars(gradtx.schedules), **vars(gradtx)}) == tx


@pytest.mark.parametrize(
    "tx",
    [
        gradtx.sgd(1e-2, 0.9),
        gradtx.lion(1e-3),
        gradtx.rmsprop(1e-2, momentum=0.9),
        gradtx.adabelief(1e-2),
        gradtx.yogi(1e-2),
        gradtx.amsgrad(1e-2),
        gradtx.adamax(1e-2),
        gradtx.adadelta(1.0),
        gradtx.adagrad(1e-1),
        gradtx.soap(1e-2, precondition_frequency=3),
        gradtx.adafactor(1e-2, min_dim_size_to_factor=8),
        gradtx.mars(1e-2),
        gradtx.adopt(1e-2),
    ],
    ids=lambda tx: repr(tx)[:40],
)
def test_other_optimizers_stay_near_themselves(tx: Any):
    expected, full = trained(tx, large())
    coded = gradtx.with_storage(tx, "half")
    updates, state = trained(coded, large())
    apart = jnp.linalg.norm(updates["matrix"] - expected["matrix"]) / jnp.linalg.norm(expected["matrix"])
    limit = 0.15 if "scale_by_sign" in repr(tx) else 0.02
    assert float(apart) < limit
    if "factored" not in repr(tx):
        assert sum(x.nbytes for x in jax.tree.leaves(state)) < sum(x.nbytes for x in jax.tree.leaves(full))


# ---- a transformation like any other ----


def test_hyperparameters_are_those_of_the_optimizer():
    tx = gradtx.adam(1e-2, storage="half")
    assert gradtx.hyperparams(tx, tx.init(large())) == gradtx.hyperparams(
        gradtx.adam(1e-2), gradtx.adam(1e-2).init(large())
    )
    with pytest.raises(KeyError, match=r"it has b1, b2, dtype, eps, eps_root, flip_sign, initial, learning_rate\. Did"):
        tx.replace(lerning_rate=1e-3)


def test_prints_compares_hashes_pickles():
    tx = gradtx.adamw(1e-2, storage="half")
    assert tx == gradtx.with_storage(gradtx.adamw(1e-2), "half")
    assert tx != gradtx.adamw(1e-2)
    assert tx != gradtx.adamw(1e-2, storage="quarter")
    again = pickle.loads(pickle.dumps(tx))
    assert (again, hash(again), repr(again)) == (tx, hash(tx), repr(tx))
    assert gradtx.without_storage(tx) == gradtx.adamw(1e-2)
    for other in (
        gradtx.with_storage(gradtx.adam(1e-2), mu=storage.bfloat16(min_size=7)),
        gradtx.with_storage(gradtx.sgd(0.1, 0.9), "log16"),
    ):
        assert eval(repr(other), {**vars(gradtx.schedules), **vars(gradtx)}) == other


@pytest.mark.parametrize("kind", FEW)
def test_scan_cond_vmap_and_no_recompilation(kind: str):
    tree = {"matrix": large()["matrix"]}
    tx = gradtx.adamw(1e-2, storage=kind)
    grads, state = samples.grads_like(tree), tx.init(tree)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(lambda tx, g, s, p: tx.update(g, s, p), n=1))
    one = step(tx, grads, state, tree)
    step(tx.replace(learning_rate=1e-3), grads, one[1], tree)
    scanned, _ = jax.lax.scan(lambda s, _: (step(tx, grads, s, tree)[1], None), state, None, length=3)
    chex.assert_trees_all_equal(samples.avals(scanned), samples.avals(state))
    kept = jax.jit(lambda go: jax.lax.cond(go, lambda s: tx.update(grads, s, tree)[1], lambda s: s, state))(False)
    chex.assert_trees_all_equal(kept, state)

    def twice(t: Any) -> Any:
        return jax.tree.map(lambda x: jnp.stack([x, x]), t)

    both = jax.jit(jax.vmap(tx.update))(twice(grads), jax.vmap(tx.init)(twice(tree)), twice(tree))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], both[0]), one[0], rtol=1e-5)
    population = jax.vmap(lambda lr: gradtx.adamw(lr, storage=kind))(jnp.asarray([1e-2, 2e-2]))
    many = jax.vmap(lambda tx: tx.update(grads, tx.init(tree), tree)[0])(population)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], many), one[0], rtol=1e-5)


@pytest.mark.parametrize("kind", FEW)
def test_the_same_numbers_on_every_layout(kind: str):
    tx, tree = gradtx.adamw(1e-2, storage=kind), {"matrix": large()["matrix"]}
    expected = trained(tx, tree)
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "model"))
    for spec in (PartitionSpec("data", "model"), PartitionSpec("model"), PartitionSpec()):
        sharding = NamedSharding(mesh, spec)
        placed = jax.tree.map(lambda x, s=sharding: jax.device_put(x, s), tree)
        for init in (tx.init, jax.jit(tx.init)):
            for leaf in jax.tree.leaves(init(placed)):
                assert leaf.ndim < 2 or leaf.sharding.is_equivalent_to(sharding, 2)
        got = trained(tx, placed)
        chex.assert_trees_all_close(got[0], expected[0], rtol=1e-5)
        chex.assert_trees_all_equal(jax.device_get(got[1]), jax.device_get(expected[1]))


def test_fresh_state_can_be_donated_and_a_step_taken():
    tree = {"matrix": large()["matrix"]}
    for kind in FEW:
        tx = gradtx.adamw(1e-2, storage=kind)
        params, state = gradtx.step(tx, jax.tree.map(jnp.copy, tree), tx.init(tree), samples.grads_like(tree))
        gradtx.step(tx, params, state, samples.grads_like(tree))


def test_inside_optax():
    tree = large()
    tx = optax.chain(optax.clip_by_global_norm(1.0), gradtx.adamw(1e-2, storage="half"))
    with jax.numpy_dtype_promotion("standard"):
        state = tx.init(tree)
        updates, after = tx.update(samples.grads_like(tree), state, tree)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.structure(updates) == jax.tree.structure(tree)
    assert optax.tree.get(after, "count") == 1


# ---- bytes ----


@pytest.mark.parametrize("kind", [None, *FEW])
def test_the_memory_plan_is_what_is_allocated(kind: str | None):
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.accumulate_gradients(gradtx.adamw(1e-2, storage=kind), 2))
    tree = large(jnp.bfloat16)
    plan = gradtx.memory_plan(tx, tree)
    assert plan.bytes == sum(x.nbytes for x in jax.tree.leaves(tx.init(tree)))
    assert plan.parameter_bytes == sum(x.nbytes for x in jax.tree.leaves(tree))
    assert plan.parameters == 64 * 80 + 7
    for name, size in plan.presets.items():
        made = gradtx.with_storage(gradtx.without_storage(tx), name).init(tree)
        assert size == sum(x.nbytes for x in jax.tree.leaves(made)), name


def test_the_memory_plan_by_group_slot_and_device():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    tree = {
        "matrix": jax.device_put(large()["matrix"], NamedSharding(mesh, PartitionSpec("data"))),
        "vector": jnp.ones(7),
    }
    tx = gradtx.by_path({"vector": gradtx.sgd(0.1, 0.9), "**": gradtx.adam(1e-2, storage="quarter")})
    plan = gradtx.memory_plan(tx, tree)
    rows = {(row.group, row.slot): row for row in plan.rows}
    words = rows["'**'", "mu_nu"]
    assert (words.bytes, words.device_bytes, words.dtype) == (64 * 80 * 2, 16 * 80 * 2, "uint16")
    assert rows["'vector'", "trace"].bytes == rows["'vector'", "trace"].device_bytes == 28
    text = str(plan)
    assert "mu_nu" in text
    assert "on a device" in text
    assert list(plan.presets) == ["float32", "half", "quarter"]


# ---- bad input ----


def test_an_unknown_slot_lists_those_there_are():
    with pytest.raises(ValueError, match=r"no slot 'nuu' .*it has mu, nu; did you mean 'nu'"):
        gradtx.with_storage(gradtx.adam(1e-2), nuu="bfloat16")


def test_choices_that_contradict_or_do_nothing_are_refused():
    with pytest.raises(ValueError, match="moments= and mu= both speak of mu"):
        gradtx.with_storage(gradtx.adam(1e-2), moments="packed32", mu="bfloat16")
    for tx in (gradtx.sgd(0.1, 0.9), gradtx.adabelief(0.1)):
        with pytest.raises(ValueError, match="no scope of .* has a mu and a nu that can be kept together"):
            gradtx.with_storage(tx, moments="packed32")
    with pytest.raises(ValueError, match="mirrors its parameter"):
        gradtx.with_storage(gradtx.sgd(0.1), parameter="bfloat16")
    with pytest.raises(ValueError, match="has a storage already"):
        gradtx.with_storage(gradtx.adam(1e-2, storage="half"), "quarter")
    with pytest.raises(TypeError, match="expected the name of a slot, got 1"):
        gradtx.with_storage(gradtx.adam(1e-2), {1: "log16"})


def test_moments_left_alone():
    _, state = trained(gradtx.with_storage(gradtx.ademamix(1e-2), "half", moments="float32"), large())
    assert dtypes_of([entry["mu"] for entry in state.stages if "mu" in entry]) == {"float32"}
    assert "uint16" in dtypes_of(state)  # the slow average


def test_a_part_that_cannot_be_told_from_its_slot_is_refused():
    class rounded(storage.Codec):
        def parts(self, slots):
            return {"value": gradtx.Slot(slots[0].name, slots[0].role, dtype=np.dtype(np.float32), real=True)}

    with pytest.raises(ValueError, match=r"rounded.*expected a dtype, and for float32 a name other than the slot's"):
        gradtx.with_storage(gradtx.sgd(0.1, 0.9), trace=rounded()).init(large())


def test_what_is_no_codec_is_refused():
    with pytest.raises(TypeError, match=r"expected a codec of gradtx.storage, 'float32' or one of .*bfloat16"):
        gradtx.with_storage(gradtx.adam(1e-2), mu="bf16")
    with pytest.raises(TypeError, match=r"keeps 2 together: give it as moments="):
        gradtx.with_storage(gradtx.adam(1e-2), mu="packed32")
    with pytest.raises(TypeError, match="expected a gradtx transformation"):
        gradtx.with_storage(optax.adam(1e-2), "half")


def test_what_a_codec_cannot_hold_is_refused_with_its_path():
    tx = gradtx.with_storage(gradtx.adam(1e-2), "half", min_size=0)
    with pytest.raises(TypeError, match=r"leaf a/b: slot 'mu' is complex .* expected 'float32'"):
        tx.init({"a": {"b": jnp.ones(3, jnp.complex64)}})
    # The second moment is real: it may be kept in fewer bytes.
    gradtx.with_storage(gradtx.adam(1e-2), nu="bfloat16", min_size=0).init({"a": jnp.ones(3, jnp.complex64)})
    with pytest.raises(TypeError, match=r"leaf w: slot 'previous_sign' holds int8"):
        gradtx.with_storage(gradtx.rprop(1e-2), previous_sign="bfloat16", min_size=0).init({"w": jnp.ones(3)})


@pytest.mark.usefixtures("x64")
def test_float64_is_not_narrowed():
    with pytest.raises(TypeError, match=r"leaf w: slot 'mu' is float64 here and would be narrowed"):
        gradtx.adam(1e-2, storage="half").init({"w": jnp.ones((64, 80), jnp.float64)})


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: storage.bfloat16(stochastic="no"), TypeError, r"stochastic=...\): expected True or False, got 'no'"),
        (lambda: storage.float16(stochastic=1), TypeError, "expected True or False, got 1 of type int"),
        (
            lambda: storage.factored(min_dim_size=-1),
            ValueError,
            r"min_dim_size=...\): expected an integer >= 0, got -1",
        ),
        (lambda: storage.factored(min_dim_size=2.5), ValueError, "expected an integer >= 0, got 2.5"),
        (lambda: storage.packed32(min_size=-5), ValueError, r"min_size=...\): expected an integer >= 0, got -5"),
    ],
)
def test_flags_of_codecs_are_checked(build: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        build()


class Halves(storage.Codec):
    """A codec in two parts that does something wrong."""

    wrong: str = ""

    def parts(self, slots: Any) -> Any:
        like = {"dtype": np.dtype(jnp.bfloat16), "real": True}
        return {name: gradtx.Slot(f"{slots[0].name}_{name}", **like) for name in ("high", "low")}

    def encode(self, values: Any, numbers: Any, bits: Any) -> Any:
        (value,) = values
        high = value.astype(jnp.bfloat16)
        low = (value - high.astype(jnp.float32)).astype(jnp.bfloat16)
        made = {"high": high, "low": low}
        return {"forgets": {"high": high}, "bare": high, "number": {**made, "low": 0.0}}.get(self.wrong, made)

    def decode(self, parts: Any, numbers: Any, shape: Any) -> Any:
        value = parts["high"].astype(jnp.float32) + parts["low"].astype(jnp.float32)
        return {"array": value, "none": (), "shape": (value[:1],)}.get(self.wrong, (value,))


WRONG = {
    "forgets": r"encode: expected the parts \['high', 'low'\], got \['high'\]",
    "bare": r"encode: expected the parts \['high', 'low'\], got one \w+",
    "number": "encode: part 'low': expected an array, got one float",
    "array": r"decode: expected a tuple of 1 arrays, for (nu|average); got one \w+",
    "none": "decode: expected a tuple of 1 arrays, for (nu|average); got 0",
    "shape": r"decode: slot '(nu|average)': expected an array of shape \(64, 80\), got \(1, 80\)",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_codecs_that_do_not_do_what_they_declare(wrong: str):
    tree = large()
    right = gradtx.with_storage(gradtx.rmsprop(1e-2), nu=Halves())
    _, state = right.update(tree, right.init(tree), tree)
    tx = gradtx.with_storage(gradtx.rmsprop(1e-2), nu=Halves(wrong=wrong))
    message = rf"leaf matrix: Halves\(wrong='{wrong}'\)\.{WRONG[wrong]}"
    with pytest.raises(ValueError, match=message):
        tx.update(tree, state, tree)
    average = gradtx.with_storage(gradtx.average_parameters(0.9), average=Halves(wrong=wrong))
    if "encode" in message:
        with pytest.raises(ValueError, match=message):
            average.init(tree)
    treewise = gradtx.with_storage(gradtx.prodigy(), nu=Halves(wrong=wrong))
    with pytest.raises(ValueError, match=message):
        treewise.update(tree, treewise.init(tree), tree)


@pytest.mark.parametrize(
    "tx",
    [
        *(gradtx.adam(1e-2, storage=kind) for kind in ("half", "quarter")),
        *(gradtx.with_storage(gradtx.sgd(0.1, 0.9), trace=kind) for kind in ("bfloat16", "float16", "log16")),
        gradtx.with_storage(gradtx.adam(1e-2), mu="bfloat16", nu="log16"),
        gradtx.skip_nonfinite(gradtx.by_path({"matrix": gradtx.adam(1e-2, storage="quarter"), "**": "frozen"})),
    ],
    ids=repr,
)
def test_a_state_carried_to_the_same_codec_keeps_its_words(tx: Any):
    tree = large()
    _, state = trained(tx, tree)
    chex.assert_trees_all_equal(gradtx.carry_state(tx, state, tx, tree), state)
    # Behind another stage too, and old rows of a longer matrix.
    longer = {**tree, "matrix": jnp.ones((70, 80))}
    more = gradtx.chain(gradtx.clip(1.0), tx) if "skip" not in repr(tx) else tx
    carried = gradtx.slots(more, gradtx.carry_state(tx, state, more, longer))
    for name, slot in gradtx.slots(tx, state).items():
        if isinstance(slot, dict):
            np.testing.assert_array_equal(carried[name]["matrix"][:64], slot["matrix"])


def test_slots_that_share_a_word_are_set_together():
    tree, tx = large(), gradtx.adam(1e-2, storage="quarter")
    _, state = trained(tx, tree)
    values = {"nu": jax.tree.map(lambda p: 4.0 * p**2, tree), "mu": jax.tree.map(lambda p: 1.5 * p, tree)}
    for order in (values, dict(reversed(values.items()))):
        found = gradtx.slots(tx, gradtx.set_slots(tx, state, order))
        for name, value in values.items():
            np.testing.assert_allclose(found[name]["matrix"], value["matrix"], rtol=0.15, err_msg=name)
            np.testing.assert_array_equal(found[name]["vector"], value["vector"])
    found = gradtx.slots(tx, gradtx.set_slots(tx, state, {"mu": 1.5, "nu": 4.0}, "matrix"))
    np.testing.assert_allclose(found["mu"]["matrix"], 1.5, rtol=0.15)
    np.testing.assert_array_equal(found["mu"]["vector"], gradtx.slots(tx, state)["mu"]["vector"])
    with pytest.raises(ValueError, match="'mu' and 'ema_first_moment.mu' mean the same slot"):
        gradtx.set_slots(tx, state, {"mu": 1.0, "ema_first_moment.mu": 1.0}, "matrix")


def test_a_state_of_another_storage_is_refused():
    tree = large()
    state = gradtx.adam(1e-2).init(tree)
    with pytest.raises(ValueError, match="expected the slots"):
        gradtx.adam(1e-2, storage="half").update(tree, state, tree)
    state = gradtx.adam(1e-2, storage="half").init(tree)
    with pytest.raises(
        ValueError,
        match=r"leaf matrix: state slot 'mu_nu': expected uint16, as storage.packed16\(\) keeps it, got uint32",
    ):
        gradtx.adam(1e-2, storage="quarter").update(tree, state, tree)
