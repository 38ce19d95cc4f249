"""Caution: which elements it drops, and where its stages may stand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples
import zoo

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

PARAMS = {"w": jnp.array([1.0, -2.0, 3.0, -0.5]), "z": jnp.array([1.0 + 1.0j, -1.0j])}
GRADS = [*[samples.grads_like(PARAMS, seed) for seed in range(4)], samples.grads_like(PARAMS, 1, 0.3)]


def last_update(tx):
    state = tx.init(PARAMS)
    for g in GRADS:
        updates, state = tx.update(g, state, PARAMS)
    return updates


def alignment(x, y):
    return np.real(np.asarray(x) * np.conj(np.asarray(y)))


@pytest.mark.parametrize("behind", [False, True], ids=["before_the_rate", "behind_the_rate"])
def test_drops_what_goes_against_the_gradient(behind):
    """The same elements, and the same steps, on both sides of the learning rate."""
    *direction, rate = gradtx.adam(0.125, b1=0.9).stages
    order = (rate, gradtx.cautious()) if behind else (gradtx.cautious(), rate)
    plain, found = last_update(gradtx.adam(0.125, b1=0.9)), last_update(gradtx.chain(*direction, *order))
    for name in PARAMS:
        keeps = alignment(plain[name], GRADS[-1][name]) < 0
        expected = np.where(keeps, plain[name], 0) / keeps.mean()
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
    assert 0 < np.count_nonzero(found["w"]) < 4


@pytest.mark.parametrize("behind", [False, True], ids=["before_the_rate", "behind_the_rate"])
def test_decays_what_the_update_shrinks(behind):
    *direction, rate = gradtx.adam(0.125).stages
    order = (rate, gradtx.cautious_weight_decay(0.125 * 0.5)) if behind else (gradtx.cautious_weight_decay(0.5), rate)
    plain, found = last_update(gradtx.adam(0.125)), last_update(gradtx.chain(*direction, *order))
    for name in PARAMS:
        decays = alignment(plain[name], PARAMS[name]) <= 0
        expected = plain[name] - np.where(decays, 0.125 * 0.5 * PARAMS[name], 0)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(lambda: gradtx.sgd(0.1), id="sgd"),
        pytest.param(lambda: gradtx.muon(0.1), id="muon"),
        pytest.param(lambda: gradtx.by_path({"w": gradtx.adamw(0.1), "**": gradtx.lion(0.1)}), id="groups"),
        pytest.param(lambda: gradtx.scope(gradtx.adam(0.1)), id="scope"),
    ],
)
def test_behind_optimizers_that_capture_no_gradient(optimizer):
    with pytest.raises(ValueError, match=r"cautious compares .* capture_gradient\(\)"):
        gradtx.chain(optimizer(), gradtx.cautious()).init(PARAMS)
    plain = last_update(optimizer())
    found = last_update(gradtx.chain(gradtx.capture_gradient(), optimizer(), gradtx.cautious()))
    for name in PARAMS:
        keeps = alignment(plain[name], GRADS[-1][name]) < 0
        expected = np.where(keeps, plain[name], 0) / max(keeps.mean(), 1e-3)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def test_products_that_no_float_holds():
    """Updates and gradients of 1e-30 or 1e30 have signs, though their products are 0 or infinite."""
    tx = gradtx.chain(gradtx.trace(0.5), gradtx.cautious())
    for size in (1e-30, 1e30):
        grads = {"w": jnp.array([1.0, -2.0, 3.0, 0.0]) * size}
        updates, _ = tx.update(grads, tx.init(grads))
        np.testing.assert_allclose(updates["w"], np.asarray(grads["w"]) / 0.75, rtol=1e-6)


def test_nan_stays():
    tx = gradtx.chain(gradtx.trace(0.5), gradtx.cautious())
    grads = {"w": jnp.array([1.0, jnp.nan])}
    assert np.isnan(tx.update(grads, tx.init(grads))[0]["w"][1])


def test_order_errors():
    with pytest.raises(ValueError, match="decay would enter the moments"):
        gradtx.chain(gradtx.cautious_weight_decay(0.1), gradtx.adam(0.1)).init(PARAMS)
    with pytest.raises(ValueError, match="put it before the estimator of the second moment"):
        gradtx.chain(gradtx.ema_first_moment(), gradtx.ema_second_moment(), gradtx.nesterov_difference()).init(PARAMS)
    for stage in (gradtx.nesterov_difference(), gradtx.add_slow_average()):
        with pytest.raises(ValueError, match="belongs right behind ema_first_moment"):
            last_update(gradtx.chain(gradtx.trace(0.9), stage))


def test_by_optax_s_transformation_in_between():
    def chain(*arguments):
        return gradtx.chain(gradtx.capture_gradient(), optax.trace(0.5), optax.scale(-0.5), gradtx.cautious(*arguments))

    def last(tx):
        params = {"w": PARAMS["w"]}
        state = tx.init(params)
        for g in GRADS:
            updates, state = tx.update({"w": g["w"]}, state, params)
        return updates["w"]

    with pytest.raises(ValueError, match=r"whether optax.* turns the update .* cautious\(descends=True\)"):
        chain().init(PARAMS)
    plain = -0.5 * last(optax.trace(0.5))
    for descends in (True, False):
        keeps = (plain * GRADS[-1]["w"] < 0) == descends
        np.testing.assert_allclose(last(chain(descends)), np.where(keeps, plain, 0) / keeps.mean(), rtol=1e-5)


NOT_DOWN = {"ema": "it averages, and does not descend"}
AS_IT_IS = {"adam_l2", "mars", "lars"}  # estimators of their own, behind what has changed or turned the gradient


@pytest.mark.parametrize("row", zoo.OPTIMIZERS, ids=lambda row: row.name)
def test_behind_every_optimizer_no_step_goes_against_the_gradient(row):
    front = [] if row.name in AS_IT_IS else [gradtx.capture_gradient()]
    whole = row.build(weight_decay=0.0) if row.name == "lars" else row.build()
    tx = gradtx.chain(*front, whole, gradtx.cautious())
    params = {"m": jnp.arange(-6.0, 6.0).reshape(3, 4) / 4}
    kept, sign = 0, -1 if row.name in NOT_DOWN else 1
    with jax.disable_jit():  # operation by operation: nothing to compile
        state = tx.init(params)
        for seed in range(2):
            gradients = samples.grads_like(params, seed)
            updates, state = tx.update(gradients, state, params, **row.keywords)
            params = optax.apply_updates(params, updates)
            u, g = np.asarray(updates["m"]), np.asarray(gradients["m"])
            if row.name not in AS_IT_IS - {"lars"}:
                assert (sign * u * g <= 0).all()
            kept += np.count_nonzero(u)
    assert kept


@pytest.mark.parametrize("factor", [-0.5, 0.5, lambda count: -0.5 + 0.0 * count], ids=["back", "on", "schedule"])
def test_the_sign_of_factors(factor):
    stage = gradtx.scale_by_schedule(factor) if callable(factor) else gradtx.scale(factor)
    tx = gradtx.chain(gradtx.trace(0.5), stage, gradtx.cautious())
    bare = gradtx.chain(gradtx.trace(0.5), gradtx.cautious())
    found, expected = last_update(tx), last_update(bare)
    for name in PARAMS:
        np.testing.assert_allclose(found[name], expected[name] * (0.5 if factor == 0.5 else -0.5), rtol=1e-6)
