"""`describe`, `diff` and the command: what an optimizer is made of."""

from __future__ import annotations

import html.parser
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples
from zoo import ZOO, Row

import gradtx
from gradtx._cli import building, main
from gradtx._inspect.equations import plain, read

pytestmark = pytest.mark.usefixtures("quick_compilation")

TREE = samples.params()
GROUPS = gradtx.by_path(
    {"**/bias": gradtx.sgd(0.1, 0.9), "pair/**": "frozen", "**": gradtx.adamw(1e-3, mask=lambda p, x: x.ndim > 1)}
)


def said() -> list[Any]:
    public = [(n, x) for n, x in vars(gradtx).items() if inspect.isclass(x) and issubclass(x, gradtx.Transform)]
    return [pytest.param(x, id=n) for n, x in public if n not in ("Transform", "Leafwise", "Treewise", "Groups")]


# ---- equations ----


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"\hat m_t = m_t / (1 - b_1^t)", "m̂ₜ = mₜ / (1 - b₁ᵗ)"),
        (r"u \leftarrow \frac{u}{\sqrt{v + \epsilon_{\text{root}}} + \epsilon}", "u ← u / (√(v + εᵣₒₒₜ) + ε)"),
        (r"\frac{a + b}{c}", "(a + b) / c"),
        (r"\frac{a}{b c}", "a / (b c)"),
        (r"x \cdot \lVert u \rVert_2^2", "x · ‖u‖₂²"),
        (r"g_0 := g_1, \qquad \theta \ge 0", "g₀ := g₁,  θ ≥ 0"),
    ],
)
def test_plain_characters(latex: str, expected: str):
    assert plain(latex) == expected


@pytest.mark.parametrize("kind", said())
def test_every_equation_reads_without_latex(kind: Any):
    found = read(inspect.getdoc(kind))
    assert len(found.summary) > 10
    assert not set("\\{}$") & set(plain(found.equation).replace("{ ", "").replace(" }", "") + found.summary)
    assert ("$$" in kind.__doc__) <= bool(found.equation)


# ---- describe ----


@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_every_byte_is_accounted_for(row: Row):
    tx = row.build()
    found = gradtx.describe(tx, TREE)
    state = jax.eval_shape(tx.init, TREE)
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert found.bytes == total - 4 * len(samples.counts(state))
    text, page = str(found), found._repr_html_()
    Balanced().feed(page)
    for entry in found.entries:
        assert all(piece in text for piece in entry.line.label.split())
        assert all(f"{number} =" in text for number in entry.line.numbers if number not in entry.line.defaults)
    assert str(gradtx.describe(tx)).count("\n") > 2


class Balanced(html.parser.HTMLParser):
    """Refuses a page whose tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_which_leaf_goes_to_which_group():
    found = gradtx.describe(GROUPS, TREE)
    groups = {entry.line.label: entry.leaves for entry in found.entries if entry.line.kind == "group"}
    assert groups == {
        "'**/bias'": ("block/bias",),
        "'pair/**'": ("pair/0",),
        "'**'": ("block/matrix", "nested/empty", "nested/scalar"),
    }
    (decay,) = [entry for entry in found.entries if entry.line.label == "decoupled_weight_decay"]
    assert (decay.leaves, decay.narrowed) == (("block/matrix", "nested/empty"), True)
    assert "decoupled_weight_decay acts on 2 of 5 leaves: block/matrix, nested/empty" in str(found)
    kept = {entry.line.label: [k.bytes for k in entry.kept] for entry in found.entries if entry.kept}
    assert kept == {"trace": [16], "ema_first_moment": [4 * 13], "ema_second_moment": [4 * 13]}


def test_wrappers_groups_and_foreign_stages_nest():
    inside = gradtx.chain(optax.scale_by_adam(), gradtx.skip_nonfinite(gradtx.adafactor(0.1)))
    tx = gradtx.accumulate_gradients(gradtx.by_path({"**/bias": gradtx.sgd(0.1), "**": inside}), 4)
    found = gradtx.describe(tx, samples.few())
    depths = {entry.line.label: entry.line.depth for entry in found.entries}
    assert depths["accumulate_gradients"] == 0
    assert depths["'**'"] == 1
    assert depths["optax.scale_by_adam"] == depths["skip_nonfinite"] == 2
    assert depths["factored_second_moment"] == 3
    by_label = {entry.line.label: entry for entry in found.entries}
    assert [k.name for k in by_label["accumulate_gradients"].kept] == ["mini_step", "gradient_step", "mean"]
    assert by_label["factored_second_moment"].leaves == ("block/matrix", "nested/scalar")
    assert by_label["optax.scale_by_adam"].kept[0].bytes == 2 * 4 * 13 + 4


def test_nothing_is_computed_or_allocated():
    params = {"w": jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.bfloat16)}
    assert gradtx.describe(gradtx.adamw(1e-3), params).bytes == 8 << 40


def test_bytes_without_parameters():
    assert gradtx.describe(gradtx.adam(1e-3)).bytes_per_parameter == 8
    assert gradtx.describe(gradtx.adam(1e-3, mu_dtype="bfloat16")).bytes_per_parameter == 6
    assert gradtx.describe(gradtx.adam(1e-3)).exact
    assert not gradtx.describe(gradtx.adafactor(1e-3)).exact
    assert "at least" in str(gradtx.describe(gradtx.accumulate_gradients(gradtx.adam(1e-3), 2)))


def test_state_kept_by_codecs():
    params = {"w": jax.ShapeDtypeStruct((128, 128), jnp.float32), "b": jax.ShapeDtypeStruct((3,), jnp.float32)}
    tx = gradtx.with_storage(gradtx.adam(1e-3), mu="bfloat16")
    assert gradtx.describe(tx, params).bytes == 128 * 128 * (2 + 4) + 3 * (4 + 4)
    assert "mu: by codec" in str(gradtx.describe(tx))
    other = gradtx.with_storage(gradtx.adam(1e-3), mu="float16")
    assert len(gradtx.diff(other, tx).lines) == 1
    assert "storage.float16() -> mu=storage.bfloat16()" in str(gradtx.diff(other, tx))


# ---- diff ----


@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_every_argument_is_a_difference(row: Row):
    assert not gradtx.diff(row.build(), row.build())
    for argument, value in row.arguments.items():
        changes = row.needs.get(argument, {})
        found = gradtx.diff(row.build(**changes), row.build(**{**changes, argument: value}))
        assert found, argument
        assert str(found) != "no difference"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (gradtx.sgd(0.1), gradtx.sgd(0.2), ["~ scale_by_learning_rate: learning_rate 0.1 -> 0.2"]),
        (
            gradtx.adam(1e-3),
            gradtx.accumulate_gradients(gradtx.adam(1e-3), 4),
            ["+ accumulate_gradients(every_k=4) around ema_first_moment to scale_by_learning_rate"],
        ),
        (
            gradtx.chain(gradtx.clip(1.0), gradtx.sgd(0.1)),
            gradtx.sgd(0.1),
            ["- clip(max_delta=1.0) before scale_by_learning_rate"],
        ),
        (
            gradtx.adamw(0.1, mask=lambda p, x: True),
            gradtx.adamw(0.1, mask=lambda p, x: False),
            ["~ decoupled_weight_decay: mask differs, though it prints alike"],
        ),
        (gradtx.sgd(0.1), gradtx.chain(gradtx.sgd(0.1), optax.clip(1.0)), ["+ optax.clip at the end"]),
    ],
)
def test_differences(first: Any, second: Any, expected: list[str]):
    assert list(gradtx.diff(first, second).lines) == expected


@pytest.mark.parametrize("call", [gradtx.describe, lambda x: gradtx.diff(gradtx.sgd(0.1), x)])
def test_what_is_no_transformation(call: Any):
    with pytest.raises(TypeError, match="expected a transformation, got .*; call it first"):
        call(gradtx.adam)


# ---- the command ----


def test_command_describes(capsys: Any):
    assert main(["describe", "adamw", "--learning-rate", "1e-2", "--weight_decay=0.5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(repr(gradtx.adamw(1e-2, weight_decay=0.5)))
    assert str(gradtx.describe(gradtx.adamw(1e-2, weight_decay=0.5))) in out


def test_command_lists_and_compares(capsys: Any):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in ("adamw", "scale_by_adam", "clip", "accumulate_gradients", "sam"))
    assert main(["compare", "adam", "adamw"]) == 0
    assert capsys.readouterr().out.endswith("before scale_by_learning_rate\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["describe", "adamm"], "no optimizer 'adamm'; did you mean adam?"),
        (["describe", "adam", "--lr", "1"], "adam has no argument '--lr'; it has --learning-rate"),
        (["describe", "adam", "--b1"], "a value is missing behind --b1"),
        (["describe", "adam", "--b1", "2"], "decay rate in [0, 1), got 2"),
        (["describe", "adam", "--b1", "cosin(1)"], "no schedule 'cosin(1)'"),
        (["describe", "clip"], "clip needs --max-delta"),
        (["list", "all"], "expected no arguments"),
    ],
)
def test_command_says_what_is_wrong(words: list[str], message: str, capsys: Any):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("None", None), ("half", "half"), ("(1, 2)", (1, 2))])
def test_command_reads_values(text: str, value: Any):
    assert building.read_value(text) == value


def test_command_reads_schedules():
    read = building.read_value("cosine_decay_schedule(1e-3, 100, alpha=0.1)")
    assert read == gradtx.schedules.cosine_decay_schedule(1e-3, 100, alpha=0.1)
    np.testing.assert_allclose(read(0), 1e-3)
