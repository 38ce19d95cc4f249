"""The pages of the reference: every public name, in the groups of gradtx/__init__.py.

Nothing but gradtx and the standard library is needed here, so that the tests can ask whether a name is missing.
"""

import inspect
import pathlib
import re

import gradtx
import gradtx.interop
from gradtx._inspect.equations import read

# Headings of gradtx/__init__.py: file name, title of the page, what it holds.
GROUPS = {
    "The core": ("core", "The core", "Chains, steps, and what stages of your own are made of."),
    "Optimizers": (
        "optimizers",
        "Optimizers",
        "Each is a function that returns its chain. `scale_by_...` is the direction of an optimizer, without its learning rate.",
    ),
    "Primitives": ("primitives", "Primitives", "The stages that chains are made of, and a few functions beside them."),
    "Wrappers": ("wrappers", "Wrappers", "Transformations around others. [How to use them](../wrappers.md)."),
    "Parameter groups": (
        "groups",
        "Parameter groups",
        "Which chain a parameter gets. [How to use them](../groups.md).",
    ),
    "Seeing and steering": (
        "see_and_steer",
        "Seeing and steering",
        "Numbers, descriptions, probes, surgery, failures. [How to use them](../see_and_steer.md).",
    ),
    "Storage": ("storage", "Storage", "State in fewer bytes. [How to use it](../storage.md)."),
    "Rounding of 16-bit parameters": (
        "rounding",
        "16-bit parameters",
        "The last stage of a chain. [How to use it](../low_precision.md).",
    ),
    "Past one device": (
        "sharding",
        "Past one device",
        "Shardings, checkpoints, rehearsals. [How to use it](../sharding.md).",
    ),
}
MODULES = {
    "gradtx.schedules": (
        "schedules",
        "Schedules",
        "Numbers that change with the step, as data; Optax's names, arguments and defaults.",
    ),
    "gradtx.storage": (
        "codecs",
        "Storage codecs",
        "How a slot is kept, for `with_storage`. [How to use them](../storage.md).",
    ),
    "gradtx.interop": ("interop", "Interop", "States of PyTorch and Optax, both ways. [How to use it](../interop.md)."),
}


def public(module):
    """The names a module exports: what its file imports as itself."""
    source = pathlib.Path(module.__file__).read_text()
    names = re.findall(r"^from \S+ import (\w+) as \1$", source, re.M)
    return [name for name in names if not inspect.ismodule(getattr(module, name))]


def groups():
    """The names of `gradtx` under the comments of its table of contents."""
    found, heading = {title: [] for title in GROUPS}, None
    for line in pathlib.Path(gradtx.__file__).read_text().splitlines():
        if line.startswith("# "):
            heading = line[2:]
        name = re.fullmatch(r"from \S+ import (\w+) as \1", line)
        if name and not inspect.ismodule(getattr(gradtx, name[1])):
            found[heading].append(name[1])
    return found


def contents():
    """For each page its path, title, introduction and the full names on it."""
    for heading, names in groups().items():
        stem, title, intro = GROUPS[heading]
        yield f"reference/{stem}.md", title, intro, [f"gradtx.{name}" for name in names]
    for module, (stem, title, intro) in MODULES.items():
        names = public(_resolve(module))
        yield f"reference/{stem}.md", title, intro, [f"{module}.{name}" for name in names]


def titles():
    """`{path: title}`."""
    return {path: title for path, title, _, _ in contents()}


def pages():
    """`{path: Markdown}`: a list of what there is, and what each docstring says."""
    return {path: _page(title, intro, names) for path, title, intro, names in contents()}


def _page(title, intro, names):
    rows = [f"| [`{name.rsplit('.', 1)[1]}`](#{name}) | {_summary(name)} |" for name in names]
    listed = "\n".join(["| | |", "|---|---|", *rows])
    return f"# {title}\n\n{intro}\n\n{listed}\n\n" + "\n\n".join(map(_entry, names)) + "\n"


def _entry(name):
    """What mkdocstrings makes of a docstring; of what is Optax's own, where it comes from."""
    value = _resolve(name)
    if value.__module__.startswith("gradtx"):
        return f"::: {name}"
    said = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
    heading = f"## {value.__name__} {{ #{name} .doc-heading }}"
    return f"{heading}\n\nOptax's own, `{value.__module__.split('.')[0]}.{value.__name__}`. {said}"


def _summary(name):
    """The first paragraph of a docstring, in a cell of a table; without its formulas where they have bars in them."""
    doc = inspect.getdoc(_resolve(name)) or ""
    text = " ".join(doc.split("\n\n")[0].split())
    return read(doc).summary.replace("|", "\\|").replace("*", "\\*") if "|" in text else text


def _resolve(name):
    value = gradtx
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value
