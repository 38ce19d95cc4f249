"""What mkdocs does beyond its own: reference pages, pages of files outside docs/, and formulas as MathML.

Links such as `../BENCHMARKS.md` and `../examples/sweep.py` work where the repository is read; here the files become pages.
"""

import ast
import inspect
import logging
import pathlib
import re
import sys

from mkdocs.structure.files import File

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # where mkdocs itself does not do so

import maths
import reference

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = {"BENCHMARKS.md": "benchmarks.md", "CHANGELOG.md": "changelog.md"}
EXAMPLES = sorted(path.relative_to(ROOT) for path in (ROOT / "examples").rglob("*.py"))
log = logging.getLogger("mkdocs.hooks.gradtx")


def on_config(config):
    """Reference, examples and the repository's own documents, behind the pages that mkdocs.yml lists."""
    config.nav = [
        *config.nav,
        {"Reference": [{title: path} for path, title in reference.titles().items()]},
        {"Examples": [{_title(path): _page(path)} for path in EXAMPLES]},
        {"Project": [{"Benchmarks": "benchmarks.md"}, {"Changelog": "changelog.md"}]},
    ]
    return config


def on_files(files, config):
    """The pages that are made here, and the font of the formulas."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    for name, page in DOCUMENTS.items():
        files.append(File.generated(config, page, content=_link((ROOT / name).read_text(), "")))
    for path in EXAMPLES:
        files.append(File.generated(config, _page(path), content=_show(path)))
    files.append(File.generated(config, "stylesheets/math.woff", content=maths.font()))
    return files


def on_page_markdown(markdown, page, **_):
    """Links out of docs/ lead to the pages of those files."""
    return _link(markdown, "../" * page.file.src_uri.count("/"))


def on_page_content(html, page, **_):
    """Formulas as MathML, which browsers set themselves: no script, no network."""
    html, problems = maths.set_formulas(html)
    for problem in problems:
        log.warning("%s: %s", page.file.src_uri, problem)
    return html


def _page(path):
    return path.with_suffix(".md").as_posix()


def _title(path):
    return path.name if len(path.parts) == 2 else f"{path.parts[-2]}/{path.name}"


def _show(path):
    """An example as a page: what it says of itself, and its code."""
    source = (ROOT / path).read_text()
    said = ast.parse(source).body[0]
    code = "".join(source.splitlines(keepends=True)[said.end_lineno :]).strip()
    return (
        f'# {path.name}\n\n{inspect.cleandoc(said.value.value)}\n\n```python title="{path.as_posix()}"\n{code}\n```\n'
    )


def _link(markdown, up):
    for name, page in DOCUMENTS.items():
        markdown = re.sub(rf"\]\((\.\./)*{re.escape(name)}", f"]({up}{page}", markdown)
    markdown = re.sub(r"\]\((?:\.\./)*(examples/[\w/]+)\.py\)", rf"]({up}\1.md)", markdown)
    return re.sub(r"\]\((?:\.\./)*docs/", f"]({up}", markdown)
