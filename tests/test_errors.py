"""Bad input: the message names the leaf, what was expected and what came."""

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

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

TREE = {"layer": {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}}


def adamw() -> Any:
    return gradtx.adamw(1e-3)


def update(grads: Any, params: Any = TREE, tx: Any = None, **extra: Any) -> Any:
    tx = tx or adamw()
    return tx.update(grads, tx.init(TREE), params, **extra)


# ---- trees ----


def test_missing_gradient():
    # Trap 17: None gradients accepted here, cryptic there.
    with pytest.raises(ValueError, match=r"leaf layer/b: expected the gradients? for it, got None.*float32\[3\]"):
        update({"layer": {"w": jnp.ones((4, 3)), "b": None}})


def test_gradient_where_no_parameter_is():
    with pytest.raises(ValueError, match="leaf layer/b: the parameters has None there"):
        update(TREE, {"layer": {"w": jnp.ones((4, 3)), "b": None}})


def test_other_keys():
    with pytest.raises(ValueError, match="leaf layer/b is in the parameters and not in the gradients; leaf layer/c"):
        update({"layer": {"w": jnp.ones((4, 3)), "c": jnp.ones(3)}})


def test_other_container():
    with pytest.raises(ValueError, match="different"):
        update([jnp.ones((4, 3)), jnp.ones(3)])


def test_other_shape():
    # Trap 17: p (3,), g (4, 3): state and update silently become (4, 3).
    with pytest.raises(
        ValueError, match=r"leaf layer/b: expected a gradient of the parameter's shape \(3,\), got \(4, 3\)"
    ):
        update({"layer": {"w": jnp.ones((4, 3)), "b": jnp.ones((4, 3))}})


def test_other_shape_without_parameters():
    tx = gradtx.adam(1e-3)
    with pytest.raises(ValueError, match=r"leaf layer/b: state slot 'mu' has shape \(3,\), the gradient has \(4, 3\)"):
        tx.update({"layer": {"w": jnp.ones((4, 3)), "b": jnp.ones((4, 3))}}, tx.init(TREE))


def test_state_of_another_tree():
    tx = gradtx.adam(1e-3)
    with pytest.raises(ValueError, match="state slot 'mu' does not fit the gradients"):
        tx.update(TREE, tx.init({"other": jnp.ones(3)}), TREE)


def test_state_of_another_chain():
    tx = adamw()
    with pytest.raises(ValueError, match="expected the state of a chain with 6 stages.*got one with 1 stages"):
        tx.update(TREE, gradtx.sgd(0.1).init(TREE), TREE)
    with pytest.raises(ValueError, match="got a tuple"):
        tx.update(TREE, (), TREE)
    with pytest.raises(ValueError, match=r"ema_first_moment: expected the slots \['mu'\].*got \['trace'\]"):
        gradtx.sgd(0.1, 0.9, ema=True).update(TREE, gradtx.sgd(0.1, 0.9).init(TREE), TREE)


def test_parameters_are_needed():
    with pytest.raises(ValueError, match="decoupled_weight_decay needs the parameters.*params was None"):
        update(TREE, None)


# ---- leaves ----


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.uint8])
def test_integer_parameters(dtype: Any):
    # Trap 16: int32 nu = 0, parameters truncated.
    tree = {"steps": jnp.zeros(3, dtype)}
    with pytest.raises(
        TypeError, match=rf"leaf steps: expected a floating.*ema_first_moment.*{jnp.dtype(dtype).name}\[3\]"
    ):
        adamw().init(tree)
    with pytest.raises(
        TypeError, match=rf"leaf steps: expected a floating or complex gradient, got {jnp.dtype(dtype).name}"
    ):
        gradtx.sgd(0.1).update(tree, gradtx.sgd(0.1).init(tree), tree)
    with pytest.raises(TypeError, match="leaf steps: expected a floating or complex parameter.*truncated"):
        gradtx.apply_updates(tree, {"steps": jnp.ones(3)})


def test_float0_gradients():
    tree = {"steps": jnp.zeros(3, jnp.int32), "w": jnp.ones(3)}
    grads = jax.grad(lambda p: jnp.sum(p["w"]), allow_int=True)(tree)
    with pytest.raises(TypeError, match="leaf steps: expected a floating or complex gradient, got float0"):
        gradtx.sgd(0.1).update(grads, gradtx.sgd(0.1).init(tree), tree)


def test_not_an_array():
    with pytest.raises(TypeError, match="leaf layer/b: expected the parameter to be an array, got 'x' of type str"):
        adamw().init({"layer": {"b": "x"}})
    with pytest.raises(TypeError, match="leaf layer/activation: expected .* to be an array, got <"):
        adamw().init({"layer": {"activation": jax.nn.relu}})


def test_complex_gradient_of_a_real_parameter():
    with pytest.raises(TypeError, match="leaf layer/b: expected a real gradient for float32, got complex64"):
        update({"layer": {"w": jnp.ones((4, 3)), "b": jnp.ones(3, jnp.complex64)}})


def test_complex_moment_in_a_real_dtype():
    # Trap 18: the imaginary part is dropped.
    with pytest.raises(TypeError, match="leaf z: slot 'mu' is complex here and cannot be stored as bfloat16"):
        gradtx.adam(1e-3, mu_dtype=jnp.bfloat16).init({"z": jnp.ones(3, jnp.complex64)})


def test_clip_of_complex_updates():
    tree = {"z": jnp.ones(3, jnp.complex64)}
    with pytest.raises(TypeError, match="clip: expected real updates, got complex"):
        gradtx.clip(1.0).update(tree, gradtx.clip(1.0).init(tree))


# ---- apply_updates ----


def test_apply_updates_checks():
    p = {"w": jnp.ones(3, jnp.bfloat16)}
    u = {"w": jnp.full(3, 0.5, jnp.float32)}
    assert gradtx.apply_updates(p, u)["w"].dtype == jnp.bfloat16
    # Trap 12: swapped arguments accepted silently (and bf16 parameters become float32).
    with pytest.raises(
        TypeError, match=r"leaf w: expected an update at least as wide as its float32 parameter.*\(params, updates\)"
    ):
        gradtx.apply_updates(u, p)
    with pytest.raises(ValueError, match=r"leaf w: expected an update of the parameter's shape \(3,\), got \(1,\)"):
        gradtx.apply_updates(p, {"w": jnp.ones(1)})
    # A real update leaves the imaginary part alone.
    z = gradtx.apply_updates({"w": jnp.array([1 + 2j], jnp.complex64)}, {"w": jnp.array([0.5], jnp.float32)})
    np.testing.assert_array_equal(z["w"], np.array([1.5 + 2j], np.complex64))
    with pytest.raises(ValueError, match="leaf w: expected the updates for it, got None"):
        gradtx.apply_updates(p, {"w": None})
    with pytest.raises(TypeError, match="leaf w: expected a real update for a bfloat16 parameter"):
        gradtx.apply_updates(p, {"w": jnp.ones(3, jnp.complex64)})
    with pytest.raises(TypeError, match="leaf w: expected a floating or complex update, got int32"):
        gradtx.apply_updates(p, {"w": jnp.ones(3, jnp.int32)})


# ---- hyperparameters ----


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gradtx.adam(1e-3, b1=1.0), r"ema_first_moment\(b1=...\): expected a decay rate in \[0, 1\), got 1"),
        (lambda: gradtx.adam(1e-3, b2=1.1), r"ema_second_moment\(b2=...\): expected a decay rate in \[0, 1\), got 1.1"),
        (lambda: gradtx.adam(1e-3, b2=-0.1), r"got -0.1"),
        (lambda: gradtx.adam(1e-3, b1=float("nan")), r"ema_first_moment\(b1=...\): expected .*, got nan"),
        (lambda: gradtx.adam(1e-3, eps=-1e-8), r"scale_by_rms\(eps=...\): expected a number >= 0, got -1e-08"),
        (
            lambda: gradtx.adamw(1e-3, weight_decay=-0.1),
            r"decoupled_weight_decay\(weight_decay=...\): expected .* -0.1",
        ),
        (lambda: gradtx.sgd(float("nan")), r"scale_by_learning_rate\(learning_rate=...\): expected a number, got nan"),
        (lambda: gradtx.sgd(0.1, momentum=1.0), r"trace\(decay=...\): expected a decay rate"),
        (lambda: gradtx.sgd(0.1, nesterov=True), "nesterov and ema need a momentum"),
        (lambda: gradtx.rmsprop(0.1, nesterov=True), "nesterov needs a momentum"),
        (lambda: gradtx.clip(-1.0), r"clip\(max_delta=...\): expected a number >= 0, got -1"),
        (lambda: gradtx.schedules.linear_schedule(0.0, 1.0, 0), "expected a number of steps > 0, got 0"),
        (lambda: gradtx.schedules.join_schedules([lambda c: 1.0], [3]), "expected one boundary between each two"),
        (lambda: adamw().replace(b1=1.0), r"expected a decay rate in \[0, 1\), got 1"),
    ],
)
def test_out_of_range(build: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gradtx.sgd("fast"), "expected a number, an array or a schedule, got 'fast' of type str"),
        (lambda: gradtx.sgd(None), "got None of type NoneType"),
        (lambda: gradtx.sgd(True), "got True of type bool"),
        (lambda: gradtx.sgd(1j), "got 1j of type complex"),
        (lambda: gradtx.sgd(jnp.complex64(1)), "expected a real number, got an array of dtype complex64"),
        (
            lambda: gradtx.adam(1e-3, b2=jnp.bfloat16(0.999)),
            "at least float32, got bfloat16.*gradtx.inject_hyperparams",
        ),
        (lambda: gradtx.schedules.constant_schedule(lambda count: 1.0), "expected a number, got <function"),
        (
            lambda: gradtx.schedules.cosine_decay_schedule(0.1, "10"),
            r"\(decay_steps=...\): expected a whole number.*'10'",
        ),
        (lambda: gradtx.schedules.cosine_decay_schedule(0.1, 2.5), "expected a whole number of steps, got 2.5"),
        (lambda: gradtx.chain(gradtx.adam), "expected argument 0 to be .* call it first"),
        (lambda: gradtx.chain(gradtx.sgd(0.1), 3), "expected argument 1 to be .*, got 3 of type int"),
        (lambda: gradtx.chain(gradtx.inject_hyperparams(adamw())), "goes around a whole chain"),
        (lambda: gradtx.inject_hyperparams(gradtx.adamw), "expected a gradtx transformation.*call the factory first"),
        (lambda: gradtx.inject_hyperparams(optax.sgd(0.1)), "expected a gradtx transformation"),
        (lambda: gradtx.step(optax.sgd(0.1), TREE, (), TREE), "expected a gradtx transformation.*gradtx.chain"),
        (lambda: gradtx.named("", adamw()), "non-empty string"),
        (lambda: gradtx.named_chain(adamw()), "expected pairs"),
    ],
)
def test_wrong_kind(build: Any, message: str):
    with pytest.raises(TypeError, match=message):
        build()


def test_optax_inject_hyperparams_on_bf16_is_refused_by_name():
    # Trap 1: b2 becomes bfloat16 1.0 and all updates NaN.
    tree = samples.params(jnp.bfloat16)
    with pytest.raises(TypeError, match=r"\(b1=...\).*bfloat16.*optax.inject_hyperparams.*gradtx.inject_hyperparams"):
        optax.inject_hyperparams(gradtx.adamw)(1e-3).init(tree)
    tx = optax.inject_hyperparams(gradtx.adamw, static_args=("mask",), hyperparam_dtype=jnp.float32)(1e-3)
    updates, _ = tx.update(tree, tx.init(tree), tree)
    assert all(np.isfinite(np.asarray(u, np.float32)).all() for u in jax.tree.leaves(updates))


def test_a_population_needs_vmap():
    tx = gradtx.sgd(jnp.array([0.1, 0.2]))
    with pytest.raises(
        ValueError, match=r"scale_by_learning_rate: expected a scalar hyperparameter, got one of shape \(2,\)"
    ):
        tx.update(TREE, tx.init(TREE))


def test_replace():
    with pytest.raises(KeyError, match="no hyperparameter 'learnin_rate'.*Did you mean 'learning_rate'"):
        adamw().replace(learnin_rate=1.0)
    twice = gradtx.chain(gradtx.clip(1.0), gradtx.sgd(0.1), gradtx.clip(2.0))
    with pytest.raises(ValueError, match=r"'max_delta' occurs 2 times.*clip\[0\].max_delta, clip\[1\].max_delta"):
        twice.replace(max_delta=3.0)


def test_replaced_schedule_where_state_is_missing():
    tx = adamw()
    scheduled = tx.replace(b1=gradtx.schedules.linear_schedule(0.5, 0.9, 10))
    with pytest.raises(ValueError, match="ema_first_moment: .*schedule.*since `init`"):
        scheduled.update(TREE, tx.init(TREE), TREE)
    with pytest.raises(ValueError, match="ema_first_moment: .*the reverse"):
        scheduled.replace(b1=0.9).update(TREE, scheduled.init(TREE), TREE)


# ---- orders of stages ----


@pytest.mark.parametrize(
    ("tx", "message"),
    [
        (gradtx.scale_by_rms(), "scale_by_rms needs an estimator of the second moment .ema_second_moment"),
        (
            gradtx.chain(gradtx.ema_first_moment(), gradtx.scale_by_rms()),
            "scale_by_rms needs an estimator of the second",
        ),
        (gradtx.bias_correction(), "bias_correction needs a moving average before it"),
        (gradtx.chain(gradtx.trace(0.9), gradtx.bias_correction()), "a trace is a sum, not an average"),
        (gradtx.chain(gradtx.sum_of_squares(), gradtx.bias_correction()), "a sum has no bias"),
        (gradtx.nesterov(), "nesterov needs an estimator of the first moment"),
        (
            gradtx.chain(gradtx.ema_first_moment(), gradtx.bias_correction(), gradtx.bias_correction()),
            "bias_correction stands behind bias_correction",
        ),
        (
            gradtx.chain(gradtx.ema_second_moment(), gradtx.scale_by_rms(), gradtx.bias_correction()),
            "bias_correction stands behind scale_by_rms",
        ),
        (
            gradtx.chain(gradtx.ema_second_moment(), gradtx.scale_by_rms(), gradtx.ema_first_moment()),
            r"ema_first_moment .* would discard what scale_by_rms wrote.*scope\(ema_first_moment\(...\)\)",
        ),
        (
            gradtx.chain(gradtx.decoupled_weight_decay(0.1), gradtx.adam(1e-3)),
            "decoupled_weight_decay stands before ema_first_moment.*use add_decayed_weights",
        ),
        (gradtx.chain(gradtx.decoupled_weight_decay(0.1), gradtx.sgd(0.1, 0.9)), "stands before trace"),
        (
            gradtx.chain(gradtx.trace(0.9), gradtx.scale(2.0), gradtx.nesterov()),
            "nesterov belongs right behind the momentum",
        ),
        (
            gradtx.chain(gradtx.ema_second_moment(), gradtx.scale_by_rectified_rms()),
            "scale_by_rectified_rms needs the length .* ema_second_moment_of_length",
        ),
        (
            gradtx.chain(gradtx.ema_second_moment_of_length(), gradtx.running_max(), gradtx.scale_by_rectified_rms()),
            "another stage has replaced the second moment since",
        ),
        (gradtx.ema_belief_moment(), "ema_belief_moment needs an estimator of the first moment"),
        (gradtx.chain(gradtx.trace(0.9), gradtx.ema_belief_moment()), "a trace is a sum, not an average"),
        (
            gradtx.chain(gradtx.ema_first_moment(), gradtx.bias_correction(), gradtx.ema_belief_moment()),
            "ema_belief_moment belongs right behind the first moment",
        ),
        (
            gradtx.chain(gradtx.ema_first_moment(), gradtx.ema_second_moment(), gradtx.ema_belief_moment()),
            "would estimate the second moment that ema_second_moment already estimates",
        ),
        (
            gradtx.chain(gradtx.ema_second_moment(), gradtx.scope(gradtx.scale_by_rms())),
            "scale_by_rms needs an estimator of the second moment",
        ),
    ],
)
def test_senseless_orders(tx: Any, message: str):
    with pytest.raises(ValueError, match=message):
        tx.update(TREE, tx.init(TREE), TREE)


def test_two_estimators_of_one_moment():
    with pytest.raises(ValueError, match=r"would estimate the first moment that ema_first_moment already.*scope\("):
        gradtx.chain(gradtx.adam(1e-3), gradtx.ema_first_moment(0.5))
    gradtx.chain(gradtx.adam(1e-3), gradtx.scope(gradtx.ema_first_moment(0.5)))


# ---- keywords ----


def test_required_keywords():
    # Trap 12: a mistyped extra argument (`valeu=`).
    tx = gradtx.chain(gradtx.scale(1.0), optax.polyak_sgd())
    state = tx.init(TREE)
    with pytest.raises(TypeError, match="optax.chain needs the keyword value=.*got valeu=, did you mean value="):
        tx.update(TREE, state, TREE, valeu=1.0)
    with pytest.raises(TypeError, match="needs the keyword value=.*got no keywords"):
        tx.update(TREE, state, TREE)
    tx.update(TREE, state, TREE, value=1.0, unrelated=2.0)
    adamw().update(TREE, adamw().init(TREE), TREE, unrelated=2.0)


# ---- pickling ----


def test_what_cannot_be_pickled_says_so():
    with pytest.raises(TypeError, match="cannot pickle the foreign transformation"):
        pickle.dumps(gradtx.chain(optax.sgd(0.1)))
    with pytest.raises(TypeError, match="cannot pickle the schedule .*gradtx.schedules"):
        pickle.dumps(gradtx.sgd(optax.cosine_decay_schedule(0.1, 10)))


# ---- masks ----


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ({"layer": {"w": 1.0, "b": True}}, TypeError, "leaf layer/w: expected the mask to say True or False, got 1.0"),
        ({"other": True}, ValueError, "the mask does not fit the parameters"),
        (lambda path, leaf: "yes", TypeError, "leaf layer/b: expected the mask to say True or False, got 'yes'"),
    ],
)
def test_bad_masks(mask: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        update(TREE, tx=gradtx.adamw(1e-3, mask=mask))


# ---- injected hyperparameters ----


def test_setting_what_a_schedule_drives():
    # Trap 11: a schedule under inject silently overwrites the value a user sets.
    tx = gradtx.inject_hyperparams(gradtx.sgd(gradtx.schedules.linear_schedule(0.1, 0.0, 10)))
    state = tx.init(TREE)
    state.hyperparams["learning_rate"] = jnp.float32(1.0)
    with pytest.raises(ValueError, match="learning_rate follows the schedule linear_schedule.*overwrite it"):
        tx.update(TREE, state, TREE)
    state.hyperparams.pop("learning_rate")
    state.hyperparams["lr"] = jnp.float32(1.0)
    with pytest.raises(ValueError, match="expected the names"):
        tx.update(TREE, state, TREE)
    tx = gradtx.inject_hyperparams(gradtx.sgd(0.1))
    state = tx.init(TREE)
    state.hyperparams["learning_rate"] = jnp.bfloat16(1.0)
    with pytest.raises(TypeError, match="expected a scalar of at least float32, got bfloat16"):
        tx.update(TREE, state, TREE)


def test_injected_numbers_are_set_in_the_state():
    with pytest.raises(TypeError, match="keeps its numbers in the state"):
        gradtx.inject_hyperparams(gradtx.sgd(0.1)).replace(learning_rate=0.5)


# ---- stages of one's own ----


class _Stage(gradtx.Leafwise):
    kind: str = "none"

    def slots(self) -> tuple[gradtx.Slot, ...]:
        if self.kind == "role":
            return (gradtx.Slot("a", role="param"),)  # type: ignore[arg-type]
        return (gradtx.Slot("a"), gradtx.Slot("a" if self.kind == "twice" else "b"))

    def scalars(self, step: Any) -> Any:
        return ({"v": jnp.ones(2)} if self.kind == "vector" else {}), {}

    def accumulate(self, s: Any, slots: Any, signal: Any) -> Any:
        if self.kind == "forgets":
            return {"a": slots["a"]}
        return {"a": slots["a"].sum(), "b": slots["b"]} if self.kind == "sums" else slots

    def emit(self, s: Any, slots: Any, signal: Any) -> Any:
        return (
            None
            if self.kind == "none"
            else signal.write(signal.update.sum() if self.kind == "shape" else signal.update)
        )


class _Tree(gradtx.Treewise):
    def update_tree(self, s: Any, updates: Any) -> Any:
        return updates[:1]


@pytest.mark.parametrize(
    ("tx", "message"),
    [
        (_Stage("none"), r"_Stage.emit: expected a Signal .*, got None"),
        (_Stage("shape"), r"_Stage.emit: expected an update of shape \(3,\), got \(\)"),
        (_Stage("forgets"), r"_Stage.accumulate: expected the slots \['a', 'b'\], got \['a'\]"),
        (_Stage("sums"), r"_Stage.accumulate: slot 'a': expected shape \(3,\), got \(\)"),
        (_Stage("vector"), r"_Stage: scalars: expected a scalar 'v', got shape \(2,\)"),
        (_Stage("role"), "slot 'a': expected role 'parameter', 'factored' or 'scalar', got 'param'"),
        (_Stage("twice"), r"_Stage.slots: expected different names, got \['a', 'a'\]"),
        (_Tree(), r"_Tree.update_tree: expected updates of shapes \[\(3,\), \(4, 3\)\], got \[\(3,\)\]"),
        (
            gradtx.chain(optax.stateless(lambda u, p: jax.tree.map(lambda x: x.sum(), u)), gradtx.scale(1.0)),
            r"leaf layer/b: expected the update of .* floating array of shape \(3,\), got float32\[\]",
        ),
    ],
)
def test_stages_that_return_nonsense(tx: Any, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        tx.update(TREE, tx.init(TREE), TREE)


@pytest.mark.parametrize("dtype", ["flaot32", jnp.int32, "int8"])
def test_storage_dtypes(dtype: Any):
    with pytest.raises(TypeError, match=r"ema_first_moment\(dtype=...\): expected a (dtype, got 'flaot32'|floating)"):
        gradtx.adam(1e-3, mu_dtype=dtype)
    with pytest.raises(TypeError, match="leaf w: slot 'mu' is real here"):
        gradtx.adam(1e-3, mu_dtype=jnp.complex64).init({"w": jnp.ones(2)})
    with pytest.raises(TypeError, match="named: expected a gradtx transformation"):
        gradtx.named("x", optax.clip(1.0))
    with pytest.raises(TypeError, match="non-empty string"):
        gradtx.chain(("", gradtx.clip(1.0)))


@pytest.mark.parametrize("returned", ["fast", 1j, None, np.complex64(1)], ids=repr)
@pytest.mark.parametrize("name", ["learning_rate", "b1"])
def test_a_schedule_that_returns_no_number(name: str, returned: Any):
    tx = gradtx.adam(**{"learning_rate": 0.1, name: lambda count: returned})
    with pytest.raises(
        ValueError, match=r"scale_by_learning_rate|ema_first_moment: expected the schedule to return a real"
    ):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), jnp.ones(3))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (gradtx.adam(0.1), {"dtype": jnp.bfloat16}, "leaf w/b: expected state slot 'mu' in bfloat16, got float32"),
        (gradtx.adam(0.1, mu_dtype="bfloat16"), {"dtype": None}, r"slot 'mu' in float32 \(or wider\), got bfloat16"),
        (
            gradtx.sgd(0.1, 0.9),
            {"accumulator_dtype": "float16"},
            "leaf w/b: expected state slot 'trace' in float16, got",
        ),
    ],
)
def test_a_dtype_replaced_in_a_running_state(old: Any, new: dict[str, Any], message: str):
    tree = {"w": {"b": jnp.ones(3)}}
    _, state = old.update(tree, old.init(tree), tree)
    tx = old.replace(new)
    with pytest.raises(ValueError, match=message + ".*carry_state"):
        tx.update(tree, state, tree)
    carried = gradtx.carry_state(old, state, tx, tree)
    chex.assert_trees_all_equal(samples.avals(carried), samples.avals(tx.update(tree, carried, tree)[1]))
    chex.assert_trees_all_equal(samples.avals(carried), samples.avals(tx.init(tree)))


@pytest.mark.parametrize(
    ("value", "where"),
    [(object(), "mode is <object"), (["fast"], r"mode\[0\] is 'fast'"), ({1: b"x"}, r"mode\[1\] is b'x'")],
)
def test_keywords_that_no_program_takes(value: Any, where: str):
    params = {"w": jnp.ones(3)}
    for tx in (gradtx.sgd(0.1), gradtx.skip_nonfinite(gradtx.sgd(0.1))):
        with pytest.raises(TypeError, match=rf"expected the keyword mode= to be a function, a string, or .*{where}"):
            gradtx.step(tx, params, tx.init(params), params, donate=False, mode=value)
        gradtx.step(tx, params, tx.init(params), params, donate=False, mode="a string is static")


def test_a_function_without_a_hash_as_a_keyword_of_step():
    class Loss:
        __hash__ = None

        def __call__(self, params: Any) -> Any:
            return jnp.sum(params)

    tx = gradtx.sgd(0.1)
    with pytest.raises(TypeError, match=r"step: expected the function value_fn= to be hashable"):
        gradtx.step(tx, jnp.ones(3), tx.init(jnp.ones(3)), jnp.ones(3), value_fn=Loss())


def test_arrays_that_an_earlier_step_used_up():
    tx, params = gradtx.adam(0.1), {"dense": {"kernel": jnp.ones(3)}}
    state, grads = tx.init(params), {"dense": {"kernel": jnp.ones(3)}}
    new = gradtx.step(tx, params, state, grads)
    for wrong, name in (((params, new[1]), "params/dense/kernel"), ((new[0], state), "state")):
        with pytest.raises(ValueError, match=f"step: {name}.* was used up by an earlier call.*donate=False"):
            gradtx.step(tx, *wrong, grads)
    gradtx.step(tx, *new, grads)


class turned(gradtx.Treewise):
    """Turns the update, or not, as a keyword says."""

    keywords = ("way",)

    def update_tree(self, s: Any, updates: Any) -> Any:
        return jax.tree.map(jnp.negative, updates) if s.way == "back" else updates


def test_a_stage_may_ask_for_a_string():
    tx, tree = gradtx.chain(turned(), gradtx.scale(2.0)), {"w": jnp.ones(3)}
    for way, expected in (("back", -2.0), ("on", 2.0), ("back", -2.0)):
        updates, _ = tx.update(tree, tx.init(tree), tree, way=way)
        np.testing.assert_array_equal(updates["w"], expected)
        params, _ = gradtx.step(tx, tree, tx.init(tree), tree, donate=False, way=way)
        np.testing.assert_array_equal(params["w"], 1 + expected)
