"""Every Python block of README.md and docs/ runs; links lead to files; the reference has every public name."""

from __future__ import annotations

import importlib.util
import inspect
import pathlib
import re
import sys
import types

import jax
import pytest

import gradtx
import gradtx.interop

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.usefixtures("quick_compilation")
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{i}")
    for page in PAGES
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block: str, monkeypatch: pytest.MonkeyPatch):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a reader runs it
        module = types.ModuleType("block")
        monkeypatch.setitem(sys.modules, "block", module)  # where a dataclass looks up its annotations
        exec(compile(block, "block", "exec"), module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links(page: pathlib.Path):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_reference_has_every_public_name():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "tools" / "reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    modules = (gradtx, gradtx.schedules, gradtx.storage, gradtx.interop)
    expected = {
        f"{module.__name__}.{name}"
        for module in modules
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    text = "\n".join(reference.pages().values())
    entries = re.findall(r"^::: (\S+)$|^## .* \{ #(\S+) \.doc-heading \}$", text, re.M)
    assert {ours or foreign for ours, foreign in entries} == expected
    assert not [name for name in expected if not inspect.getdoc(reference._resolve(name))]
