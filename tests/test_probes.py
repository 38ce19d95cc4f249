"""Probes measure what they say, change no update, and cost nothing where there are none."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples

import gradtx

TREE = samples.params()
GRADS = samples.grads_like(TREE)
FEW = samples.few()
SOME = {"w": jnp.asarray([3.0, 4.0])}


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def measured(*stages: Any, tree: Any = TREE, grads: Any = GRADS, steps: int = 3) -> tuple[dict[str, float], Any]:
    """What is measured in the last step, and the updates of that step."""
    tx = gradtx.chain(*stages)
    state, update, updates = tx.init(tree), jax.jit(tx.update), None
    assert not any(np.asarray(x).any() for x in gradtx.metrics(state).values())
    for _ in range(steps):
        updates, state = update(grads, state, tree)
    return {name: float(x) for name, x in gradtx.metrics(state).items()}, updates


def test_what_each_probe_measures():
    found, updates = measured(
        gradtx.nonfinite_count(),
        gradtx.adam(0.1),
        gradtx.gradient_norm(),
        gradtx.update_norm(),
        gradtx.parameter_norm(),
        gradtx.update_ratio(),
        gradtx.update_cosine(),
        gradtx.effective_learning_rate(),
        gradtx.second_moment_statistics(),
    )
    g, u, p = flat(GRADS), flat(updates), flat(TREE)
    norm = np.linalg.norm
    expected = {
        "nonfinite_count": 0,
        "gradient_norm": norm(g),
        "update_norm": norm(u),
        "parameter_norm": norm(p),
        "update_ratio": norm(u) / norm(p),
        "update_cosine": u @ g / norm(u) / norm(g),
        "effective_learning_rate": norm(u) / norm(g),
        "second_moment_statistics/min": (g**2).min(),
        "second_moment_statistics/mean": (g**2).mean(),
        "second_moment_statistics/max": (g**2).max(),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_each_leaf_and_each_group():
    found, _ = measured(
        gradtx.gradient_norm(per="leaf"),
        gradtx.gradient_norm(per={"biases": "**/bias", "rest": "nested/**"}, name="some"),
    )
    leaves = {
        "block/matrix": GRADS["block"].matrix,
        "block/bias": GRADS["block"].bias,
        "pair/0": GRADS["pair"][0],
        "nested/scalar": GRADS["nested"]["scalar"],
        "nested/empty": GRADS["nested"]["empty"],
    }
    expected = {f"gradient_norm/{path}": np.linalg.norm(flat(x)) for path, x in leaves.items()}
    expected["some/biases"] = np.linalg.norm(flat(GRADS["block"].bias))
    expected["some/rest"] = np.linalg.norm(flat(GRADS["nested"]))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("stage", "share"),
    [
        (gradtx.clip(0.5), lambda g: np.mean(np.abs(g) > 0.5)),
        (gradtx.clip_by_global_norm(1.0), lambda g: 1.0),
        (gradtx.clip_by_global_norm(1e6), lambda g: 0.0),
        (gradtx.chain(gradtx.clip(1.0), optax.clip(0.25)), lambda g: np.mean(np.abs(g) > 0.25)),
    ],
)
def test_fraction_clipped(stage: Any, share: Any):
    found, _ = measured(gradtx.fraction_clipped(stage), gradtx.sgd(0.1))
    np.testing.assert_allclose(found["fraction_clipped"], share(flat(GRADS)), rtol=1e-6)


def test_nonfinite_elements_are_counted():
    bad = {**GRADS, "pair": (jnp.asarray([jnp.nan, jnp.inf, 1.0, -jnp.inf]), None)}
    found, _ = measured(gradtx.nonfinite_count(), gradtx.nonfinite_count("leaf", "where"), grads=bad)
    assert (found["nonfinite_count"], found["where/pair/0"], found["where/block/bias"]) == (3, 3, 0)


def test_norms_of_large_and_16_bit_gradients():
    tree = {"w": jnp.full(8, 30000, jnp.float16), "v": jnp.full(8, 1e20)}
    found, _ = measured(gradtx.gradient_norm(), gradtx.gradient_norm("leaf", "of"), tree=tree, grads=tree)
    np.testing.assert_allclose(found["gradient_norm"], 8**0.5 * 1e20, rtol=1e-6)
    np.testing.assert_allclose(found["of/w"], 8**0.5 * 30000, rtol=1e-6)


def largest(view: gradtx.View) -> Any:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(u)) for u in view.updates if u.size]))


def two(view: gradtx.View) -> Any:
    return {"p": gradtx.global_norm(view.params), "raw": gradtx.global_norm(view.marks["raw"])}


def test_a_probe_of_ones_own():
    found, updates = measured(
        gradtx.mark("raw"),
        gradtx.clip(0.5),
        gradtx.adam(0.1),
        gradtx.probe("largest", largest),
        gradtx.probe("two", two, outputs=("p", "raw"), needs=("param",)),
    )
    np.testing.assert_allclose(found["largest"], np.abs(flat(updates)).max(), rtol=1e-6)
    np.testing.assert_allclose(found["two/p"], np.linalg.norm(flat(TREE)), rtol=1e-6)
    np.testing.assert_allclose(found["two/raw"], np.linalg.norm(flat(GRADS)), rtol=1e-6)


@pytest.mark.parametrize("jitted", [False, True])
def test_a_probe_changes_no_update(jitted: bool):
    probes = [gradtx.gradient_norm(), gradtx.update_cosine("leaf"), gradtx.second_moment_statistics()]
    plain = gradtx.adamw(0.1, weight_decay=0.1)
    *front, last = plain.stages
    probed = gradtx.chain(probes[0], *front, probes[2], last, probes[1])
    a, b = plain.init(FEW), probed.init(FEW)
    run = (lambda f: jax.jit(f)) if jitted else (lambda f: f)
    update_a, update_b = run(plain.update), run(probed.update)
    for i in range(2):
        u, a = update_a(samples.grads_like(FEW, i), a, FEW)
        v, b = update_b(samples.grads_like(FEW, i), b, FEW)
        chex.assert_trees_all_close(u, v, rtol=3e-7)


WITHOUT = {
    "adamw": lambda *more: gradtx.chain(gradtx.clip_by_global_norm(1.0), *more, gradtx.adamw(1e-3)),
    "groups": lambda *more: gradtx.by_path({"**/bias": gradtx.sgd(0.1), "**": gradtx.chain(gradtx.adam(0.1), *more)}),
}


@pytest.mark.parametrize("make", WITHOUT.values(), ids=WITHOUT.keys())
def test_programs_without_probes_know_nothing_of_them(make: Any):
    """No signal is kept for a probe that is not there: the program has what the leaf programs need and no more."""
    state = make().init(TREE)
    lowered = jax.jit(make().update).lower(GRADS, state, TREE).as_text()
    assert "probe" not in lowered
    kept = [s.keep for s in gradtx._core.plan.plan_for(jax.tree.structure(make())).segments]
    with_probe = gradtx._core.plan.plan_for(jax.tree.structure(make(gradtx.update_norm()))).segments
    later_leafwise = [
        any(s.kind == "leafwise" for s in segments[i + 1 :])
        for segments in [gradtx._core.plan.plan_for(jax.tree.structure(make())).segments]
        for i in range(len(segments))
    ]
    assert kept == later_leafwise
    assert len(with_probe) > len(kept)


def test_metrics_of_any_state():
    probed = gradtx.chain(gradtx.gradient_norm(), gradtx.sgd(0.1))
    for wrap in (
        lambda tx: gradtx.accumulate_gradients(tx, 2),
        lambda tx: gradtx.chain(gradtx.clip(10.0), gradtx.skip_nonfinite(tx)),
        lambda tx: optax.chain(optax.clip(10.0), tx),
        lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
        lambda tx: gradtx.inject_hyperparams(tx),
    ):
        tx = wrap(probed)
        state = tx.init(SOME)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            for _ in range(2):
                _, state = tx.update(SOME, state, SOME)
        found = gradtx.metrics(state)
        assert list(found) == ["gradient_norm"]
        np.testing.assert_allclose(found["gradient_norm"], np.linalg.norm(flat(SOME)), rtol=1e-6)
    assert gradtx.metrics(gradtx.adam(0.1).init(TREE)) == {}


def test_metrics_that_share_a_name():
    tx = gradtx.by_path({"**/bias": gradtx.chain(gradtx.update_norm(), gradtx.sgd(0.1)), "**": gradtx.update_norm()})
    _, state = tx.update(GRADS, tx.init(TREE), TREE)
    found = gradtx.metrics(state)
    assert set(found) == {"update_norm[0]", "update_norm[1]"}
    np.testing.assert_allclose(found["update_norm[0]"], np.linalg.norm(flat(GRADS["block"].bias)), rtol=1e-6)


def test_metrics_inside_jit_and_scan():
    tx = gradtx.chain(gradtx.gradient_norm(), gradtx.sgd(0.1))

    def step(state: Any, scale: Any) -> Any:
        _, state = tx.update(jax.tree.map(lambda g: g * scale, GRADS), state, TREE)
        return state, gradtx.metrics(state)

    _, found = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(1.0, 4.0)))(tx.init(TREE))
    np.testing.assert_allclose(found["gradient_norm"], np.linalg.norm(flat(GRADS)) * np.arange(1, 4), rtol=1e-6)


def not_a_scalar(view: gradtx.View) -> Any:
    return view.updates[0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gradtx.gradient_norm("tensor"), ValueError, r"gradient_norm\(per=...\): expected 'tree', 'leaf'"),
        (lambda: gradtx.gradient_norm(name="a.b"), ValueError, "without a dot, got 'a.b'"),
        (lambda: gradtx.probe("x", 3), TypeError, "expected a function of a view, got 3"),
        (
            lambda: measured(gradtx.probe("x", not_a_scalar)),
            ValueError,
            r"probe 'x': expected a real scalar, got float32\[",
        ),
        (lambda: measured(gradtx.probe("x", two, outputs=("p",))), KeyError, "raw"),
        (lambda: measured(gradtx.probe("x", largest, outputs=("p",))), ValueError, r"expected \['p'\], got"),
        (lambda: measured(gradtx.second_moment_statistics()), ValueError, "needs an estimator of the second moment"),
        (lambda: measured(gradtx.changed("x")), ValueError, r"there is no mark\('x'\) before it"),
        (
            lambda: gradtx.update_ratio().update(GRADS, gradtx.update_ratio().init(TREE)),
            ValueError,
            "needs the parameters",
        ),
    ],
)
def test_what_is_wrong(call: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        call()
