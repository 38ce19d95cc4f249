"""Parameter groups: who is matched, what is kept, and how the groups share one step."""

import re

import chex
import equinox
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

PARAMS = {
    "encoder": [{"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}],
    "head": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
}
GRADS = jax.tree.map(lambda x: 0.5 * x, PARAMS)


def arrays(state):
    return [x for x in jax.tree.leaves(state) if x.ndim]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("**/bias", {"encoder/0/bias", "encoder/1/bias", "head/bias"}),
        ("*/bias", {"head/bias"}),
        ("encoder/?/kernel", {"encoder/0/kernel", "encoder/1/kernel"}),
        ("encoder/**", {"encoder/0/bias", "encoder/0/kernel", "encoder/1/bias", "encoder/1/kernel"}),
        ("head/bi", set()),
        (re.compile(r"encoder/[1-9]/.*"), {"encoder/1/bias", "encoder/1/kernel"}),
        (re.compile(r"encoder"), set()),
        (lambda path, leaf: leaf.ndim == 2 and path.startswith("head"), {"head/kernel"}),
    ],
)
def test_patterns(pattern, matched):
    tx = gradtx.by_path({pattern: "frozen", "**": gradtx.sgd(0.1)})
    groups = tx.assign(PARAMS)
    found = {path for path, group in zip(tx.assignment(PARAMS), groups) if group == 0}
    assert found == matched


def test_first_match_wins_and_is_printed():
    tx = gradtx.by_path({"**/bias": gradtx.sgd(0.1), "head/**": "frozen", "**": gradtx.adam(1e-3)})
    table = tx.assignment(PARAMS)
    assert table["head/bias"] == "'**/bias'"
    assert table["head/kernel"] == "'head/**'"
    text = tx.table(PARAMS)
    assert "'head/**': 1 leaves, 8 parameters: chain(freeze())" in text
    assert "encoder/0/kernel  float32[3, 4]" in text


def test_an_unmatched_leaf_is_an_error_with_all_their_paths():
    tx = gradtx.by_path({"**/bias": gradtx.sgd(0.1), "head/*": gradtx.sgd(0.1)})
    for call in (lambda: tx.init(PARAMS), lambda: tx.update(GRADS, tx.init(PARAMS), PARAMS)):
        with pytest.raises(ValueError, match=r"no pattern of .* matches encoder/0/kernel, encoder/1/kernel;"):
            call()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({}, "expected a non-empty dict"),
        ({3: gradtx.sgd(0.1)}, "expected a pattern to be a string.* got 3 of type int"),
        ({"**": "freezing"}, "expected a transformation or 'frozen', got 'freezing'"),
        ({"**": gradtx.adam}, r"by_path: '\*\*': chain: expected argument 0 .*call it first"),
    ],
)
def test_bad_groups(groups, message):
    with pytest.raises(TypeError, match=message):
        gradtx.by_path(groups)


def test_frozen_leaves_keep_no_state_and_do_not_move():
    # Traps 8 and 14: optax.masked ascends there, and moments are kept behind a mask.
    tx = gradtx.by_path({"encoder/**": "frozen", "**": gradtx.adamw(0.1, weight_decay=0.1)})
    state = tx.init(PARAMS)
    assert sorted(x.shape for x in arrays(state)) == [(2,), (2,), (4, 2), (4, 2)]
    for update in (tx.update, jax.jit(tx.update)):
        updates, after = update(GRADS, state, PARAMS)
        assert all(not np.asarray(x).any() for x in jax.tree.leaves(updates["encoder"]))
        assert all(np.asarray(x).all() for x in jax.tree.leaves(updates["head"]))
        assert jax.tree.structure(after) == jax.tree.structure(state)
    assert int(optax.tree.get(after, "count")) == 1


def test_a_frozen_nan_stays_outside():
    grads = {**GRADS, "encoder": jax.tree.map(lambda x: x * jnp.nan, GRADS["encoder"])}
    tx = gradtx.by_path({"encoder/**": "frozen", "**": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adam(0.1))})
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    chex.assert_tree_all_finite(updates)


def test_each_group_clips_by_its_own_norm():
    tx = gradtx.by_path(
        {"head/**": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.sgd(1.0)), "**": gradtx.sgd(1.0)}
    )
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(gradtx.global_norm(updates["head"]), 1.0, rtol=1e-6)
    chex.assert_trees_all_equal(updates["encoder"], jax.tree.map(lambda g: -g, GRADS["encoder"]))


def test_optax_chains_in_groups_see_their_leaves_only():
    tx = gradtx.by_path({"**/bias": optax.sgd(0.1, 0.9), "**": optax.adamw(0.1, weight_decay=0.1)})
    other = optax.partition(
        {"bias": optax.sgd(0.1, 0.9), "rest": optax.adamw(0.1, weight_decay=0.1)},
        lambda p: jax.tree_util.tree_map_with_path(lambda k, _: "bias" if "bias" in str(k[-1]) else "rest", p),
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state, reference = tx.init(PARAMS), other.init(PARAMS)
        for _ in range(3):
            updates, state = tx.update(GRADS, state, PARAMS)
            expected, reference = other.update(GRADS, reference, PARAMS)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_numbers_of_a_group_are_addressed_by_its_pattern():
    tx = gradtx.by_path({"**/bias": gradtx.sgd(0.1), "**": gradtx.sgd(0.2)})
    moved = tx.replace({"**/bias.learning_rate": 0.3})
    assert moved == gradtx.by_path({"**/bias": gradtx.sgd(0.3), "**": gradtx.sgd(0.2)})
    assert jax.tree.structure(moved) == jax.tree.structure(tx)


def test_groups_within_groups_and_chains():
    inner = gradtx.by_path({"**/bias": gradtx.scale(-1.0), "**": gradtx.scale(-2.0)})
    tx = gradtx.chain(
        gradtx.clip(0.25), gradtx.by_path({"head/**": inner, "**": gradtx.scale(-3.0)}), gradtx.scale(2.0)
    )
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    assert float(updates["head"]["bias"][0]) == -0.5
    assert float(updates["head"]["kernel"][0, 0]) == -1.0
    assert float(updates["encoder"][0]["bias"][0]) == -1.5


def test_modules_of_any_framework():
    # Trap 20: errors about container types.
    tx = gradtx.by_path({"**bias**": gradtx.sgd(0.1), "**": gradtx.adam(0.1)})
    model = equinox.nn.Linear(3, 2, key=jax.random.key(0))
    params = equinox.filter(model, equinox.is_inexact_array)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert isinstance(updates, equinox.nn.Linear)
    assert float(updates.bias[0]) == np.float32(-0.1)
    state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    assert len(set(tx.assign(state))) == 2
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, state), tx.init(state), state)
    assert jax.tree.structure(updates) == jax.tree.structure(state)


def test_layerwise_decay_of_the_learning_rate():
    """A group a layer: the rate of layer i of n is `rate * decay**(n - i)`."""
    groups = {f"encoder/{i}/**": gradtx.sgd(0.1 * 0.5 ** (2 - i)) for i in range(2)}
    tx = gradtx.by_path({**groups, "**": gradtx.sgd(0.1)})
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    found = [float(updates["encoder"][i]["bias"][0]) for i in range(2)] + [float(updates["head"]["bias"][0])]
    np.testing.assert_allclose(found, [-0.0125, -0.025, -0.05], rtol=1e-6)


class _mean_of_all(gradtx.Treewise):
    """Replaces every update by the mean of all elements, times a keyword; remembers how often and the last mean."""

    keywords = ("value",)
    requires = ("param",)

    def slots(self):
        return (gradtx.Slot("calls", role="scalar"), gradtx.Slot("anchor", initial="parameter"))

    def update_leaves(self, s, leaves):
        size = sum(x.update.size for x in leaves.signals)
        mean = sum(jnp.sum(x.update) for x in leaves.signals) / size * s.value
        assert len(leaves.everything) == leaves.treedef.num_leaves
        moved = [mean + 0 * x.update + x.param - slots["anchor"] for x, slots in zip(leaves.signals, leaves.slots)]
        return leaves.with_updates(moved).replace(memory={"calls": leaves.memory["calls"] + 1})


def test_a_treewise_stage_with_slots_parameters_and_keywords():
    tx = gradtx.by_path({"head/**": gradtx.chain(_mean_of_all(), gradtx.scale(2.0)), "**": "frozen"})
    state = tx.init(PARAMS)
    with pytest.raises(TypeError, match=r"_mean_of_all needs the keyword value=.*did you mean value=\?"):
        tx.update(GRADS, state, PARAMS, valeu=3.0)
    for _ in range(2):
        updates, state = tx.update(GRADS, state, PARAMS, value=jnp.float32(3.0))
    np.testing.assert_allclose(updates["head"]["kernel"], 3.0, rtol=1e-6)
    assert float(optax.tree.get(state, "calls")) == 2
    assert len(arrays(state)) == 2
