"""What MkDocs does besides: pages from outside of docs/, links that leave the site, notebooks, and a last check.

README, changelog and a few others stay where they belong and become pages of the site. A link to any other file of the
repository goes to its address, or is plain words while setup.cfg names none. Each tutorial is offered as a notebook.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import runpy
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {  # page of the site -> file of the repository
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "measured-paper.md": "examples/paper/results/README.md",
}
TUTORIALS = ("tutorials/", "pretrained.md")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
BLOCK = re.compile(r"^```python(?: new-process)?\n(.*?)^```\n?", flags=re.MULTILINE | re.DOTALL)
PUBLIC = re.compile(r"^::: (public|table) (\S+)$", flags=re.MULTILINE)
SETUP = runpy.run_path(str(ROOT / "setup.py"))
PUBLIC_API = tuple(json.loads((ROOT / "tests/data/public_api.json").read_text()))
log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside, the pictures they show, and the notebooks."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for page in list(files.documentation_pages()):
        for picture in pictures_outside(page):
            if files.get_file_from_path(picture) is None:
                files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
        if page.src_uri.startswith(TUTORIALS):
            notebook = nbformat.writes(as_notebook(page.content_string))
            files.append(File.generated(config, page.src_uri.replace(".md", ".ipynb"), content=notebook))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links that leave docs/, and put the notebook's link below the title of a tutorial."""
    uri = page.file.src_uri
    markdown = rewritten(markdown, uri, SETUP["address"]())
    markdown = PUBLIC.sub(lambda line: {"public": described, "table": listed}[line[1]](line[2]), markdown)
    if uri.startswith(TUTORIALS):
        title, _, rest = markdown.partition("\n")
        name = Path(uri).with_suffix(".ipynb").name
        markdown = f"{title}\n\n[This page as a notebook]({name}){{ .md-button download={name} }}\n{rest}"
    return markdown


def on_post_build(config: MkDocsConfig) -> None:
    """Warn, which ends a strict build, of public names that the reference leaves out."""
    lines = zlib.decompress(Path(config.site_dir, "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    known = {line.split(" ", 1)[0] for line in lines.splitlines()}
    for module, _, name in (key.rpartition(":") for key in PUBLIC_API if "." not in key):
        where = f"prunefuse_al.{module}.{name}" if module else home(name)
        if where not in known:
            log.warning("%s is public and not in the reference", where)


def public_names(module: str) -> list[str]:
    """Return what a module's `__all__` lists, what it defines itself, and what is promised to stay, sorted."""
    tree = parsed(module)
    named = (
        node for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    )
    names = {name for node in named for name in ast.literal_eval(node.value)}
    names |= {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    names |= {key.partition(":")[2] for key in PUBLIC_API if f"prunefuse_al.{key}".startswith(f"{module}:")}
    return sorted((name for name in names if not re.search(r"^_|\.", name)), key=str.lower)


def described(module: str) -> str:
    """Return the directive that describes a module's public names."""
    options = {"members": public_names(module), "show_root_heading": False, "show_root_toc_entry": False}
    options |= {"heading_level": 3}
    return f"## {module}\n\n::: {module}\n    options: {json.dumps(options)}\n"


def listed(module: str) -> str:
    """Return a table of the names that the package hands out, each with a link to where it is described."""
    names = sorted(homes(), key=str.lower)
    rows = (f"| [`{module}.{name}`][{home(name)}] | `{homes()[name]}` |" for name in names)
    return "| name | described under |\n|---|---|\n" + "\n".join(rows)


@cache
def homes() -> dict[str, str]:
    """Return name -> the module in which the package's own face finds it."""
    imports = (node for node in parsed("prunefuse_al").body if isinstance(node, ast.ImportFrom))
    pairs = ((name.asname, f"prunefuse_al.{node.module}") for node in imports for name in node.names)
    return {name: module for name, module in pairs if not name.startswith("_")}


def home(name: str) -> str:
    """Return the full name under which the reference describes a name of the package."""
    return f"{homes()[name]}.{name}"


def parsed(module: str) -> ast.Module:
    """Return a module's syntax tree; nothing is imported."""
    path = ROOT / module.replace(".", "/")
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def target_of(link: str, uri: str) -> str:
    """Return the file of the repository that a link of a page leads to."""
    start = Path(OUTSIDE.get(uri, f"docs/{uri}")).parent
    return os.path.normpath(start / link)


def pictures_outside(page: File) -> list[str]:
    """Return the pictures of a page that lie outside of docs/."""
    targets = [target_of(link[3], page.src_uri) for link in LINK.finditer(page.content_string) if link[1]]
    return [target for target in targets if not target.startswith("docs/")]


def rewritten(markdown: str, uri: str, source: str) -> str:
    """Return the text of a page with links that hold on the site."""
    pages = {path: page for page, path in OUTSIDE.items()}

    def replaced(link: re.Match[str]) -> str:
        picture, words, path, anchor = link.groups()
        target = target_of(path, uri)
        inside = pages.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if inside is None and picture:
            inside = target
        if inside is not None:
            return f"{picture}[{words}]({os.path.relpath(inside, Path(uri).parent)}{anchor or ''})"
        if not (ROOT / target).exists():
            log.warning("%s links to %s, which does not exist", uri, target)
        return f"[{words}]({source}/blob/main/{target})" if source else words

    return LINK.sub(replaced, markdown)


def as_notebook(markdown: str) -> Any:
    """Return a page as a notebook: Python blocks are its code cells, and links are words, for it is read elsewhere."""
    cells, end = [], 0
    markdown = SETUP["for_an_index"](markdown, "")
    for block in BLOCK.finditer(markdown):
        cells += [("markdown", markdown[end : block.start()]), ("code", block[1])]
        end = block.end()
    cells.append(("markdown", markdown[end:]))
    made = [
        getattr(nbformat.v4, f"new_{kind}_cell")(text.strip(), id=f"cell-{number}")
        for number, (kind, text) in enumerate(cells)
        if text.strip()
    ]
    notebook = nbformat.v4.new_notebook(cells=made)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.validate(notebook)
    return notebook
