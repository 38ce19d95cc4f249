"""Who replaces `optax` by `gradtx` keeps the call: names, order and defaults of the arguments."""

import inspect

import optax
import optax.contrib
import pytest

import gradtx
from gradtx import schedules

# The same name for something else: docs/coming_from_optax.md says what.
OTHER_MEANING = {"bias_correction", "freeze", "inject_hyperparams", "scale_by_rms", "trace", "Schedule"}

WITHOUT = {
    "chain": "any number of positional stages, under another name",
    "named_chain": "the same",
}
# Defaults that differ, and why.
DEFAULTS = {
    ("lbfgs", "linesearch"): "the same line search, another instance",
    ("adafactor", "dtype_momentum"): "None is float32 too, but keeps imaginary parts and float64",
    ("scale_by_factored_rms", "decay_rate_fn"): "None is the same rule, computed without losing digits",
    ("sophia", "hessian_diagonal_fn"): "the same estimator, of our own",
    ("muon", "ns_coeffs"): "the same numbers, by name",
    ("adopt", "clip_value_fn"): "the same function, as data",
    ("scale_by_adopt", "clip_value_fn"): "the same",
    ("scale_by_learning_rate", "learning_rate"): "None there is no rate and no descent either",
}
PAIRS = {
    name: (theirs, ours)
    for library in (gradtx, schedules)
    for name in dir(library)
    for theirs in [getattr(optax, name, None) or getattr(optax.contrib, name, None)]
    for ours in [getattr(library, name)]
    if callable(ours) and callable(theirs) and ours is not theirs and not inspect.ismodule(ours)
    if not name.startswith("_") and name not in OTHER_MEANING and name not in WITHOUT
}


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_arguments_are_optax_s(name):
    """Ours may take more of them, behind Optax's."""
    theirs, ours = (list(inspect.signature(f).parameters.values()) for f in PAIRS[name])
    assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
    for a, b in zip(ours, theirs, strict=False):
        same = a.default is b.default or a.default == b.default
        assert same or (name, a.name) in DEFAULTS, (a.name, a.default, b.default)
        # An argument that can be given by position there can be here.
        assert a.kind == b.kind or a.kind == a.POSITIONAL_OR_KEYWORD, (a.name, a.kind, b.kind)


def test_signatures_are_shown():
    assert str(inspect.signature(gradtx.nesterov)) == "()"
    assert list(inspect.signature(gradtx.clip_by_global_norm).parameters) == ["max_norm"]
    assert inspect.signature(gradtx.ema_first_moment).parameters["b1"].default == 0.9
