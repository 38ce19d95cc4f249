"""Caution: which elements it drops, and where its stages may stand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples

import gradtx

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
    tx = gradtx.chain(gradtx.capture_gradient(), optax.scale(-1.0), gradtx.cautious())
    for leaf in jax.tree.leaves(last_update(tx)):
        np.testing.assert_array_equal(leaf, 0)
