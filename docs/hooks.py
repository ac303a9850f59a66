"""What the site needs beyond Markdown: pages from outside docs/, the API reference, equations.

MkDocs calls these functions while it builds the site (mkdocs.yml names this file).
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]

# Documents that lie outside of docs/, and the pages that they become.
OUTSIDE = {
    "README.md": "index.md",
    "BUILD.md": "install.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}

# What a program of yours starts with, of the package's own names.
FACE = ("train", "load_dataset", "Dataset", "load_run", "Run", "evaluate", "Evaluation")
FACE += ("RunConfig", "Logger", "METHODS")

# Pages of the API reference: title and modules. What does not exist is left out.
REFERENCE = {
    "train, load, evaluate": tuple(f"jaxrl_prefs.{name}" for name in FACE),
    "the contract": ("jaxrl_prefs.method", "jaxrl_prefs.types"),
    "methods": tuple(
        f"jaxrl_prefs.methods.{name}"
        for name in [
            "bdpo",
            "arq",
            "bpr",
            "td3_bst",
            "iql_bst",
            "td3_bc",
            "rebrac",
            "iql",
            "xql",
            "awac",
            "cql",
            "one_step",
            "fql",
            "ifql",
            "dql",
            "idql",
            "dac",
            "bc",
            "ibc",
        ]
    ),
    "data": ("jaxrl_prefs.data", "jaxrl_prefs.data.recording", "jaxrl_prefs.data.dataset"),
    "estimates": (
        "jaxrl_prefs.runs.policy_values",
        "jaxrl_prefs.estimation.fqe",
        "jaxrl_prefs.estimation.importance",
        "jaxrl_prefs.estimation.ranking",
    ),
    "environments": ("jaxrl_prefs.environments.task",),
    "testing": ("jaxrl_prefs.testing",),
    "errors": ("jaxrl_prefs.errors",),
    "networks": ("jaxrl_prefs.nets.mlp", "jaxrl_prefs.nets.time_conditioned"),
    "learner": ("jaxrl_prefs.learner",),
    "mathematics": tuple(
        f"jaxrl_prefs.ops.{path.stem}"
        for path in sorted((ROOT / "jaxrl_prefs" / "ops").glob("[a-z]*.py"))
    ),
}

LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)]*)?\))")


def on_config(config: Any) -> Any:
    """Adds the reference, and a changelog if there is one, to the navigation."""
    pages = [{title.capitalize(): _page(title)} for title in REFERENCE if _modules(title)]
    config.nav.append({"API reference": pages})
    if (ROOT / "CHANGELOG.md").exists():
        config.nav[-2]["Development"].append({"Changelog": "changelog.md"})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the documents from outside docs/ and the reference as pages."""
    for source, page in OUTSIDE.items():
        if (path := ROOT / source).exists():
            files.append(File.generated(config, page, content=_moved(path.read_text(), source)))
    for title in REFERENCE:
        if modules := _modules(title):
            text = f"# {title.capitalize()}\n\n" + "\n".join(f"::: {name}\n" for name in modules)
            files.append(File.generated(config, _page(title), content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Points links out of docs/ at the pages that these documents have become."""
    here = page.file.src_uri
    if here in OUTSIDE.values() or here.startswith("reference/"):
        return markdown
    return _moved(markdown, f"docs/{here}")


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Writes equations as MathML, which browsers show without any script."""

    def equation(found: re.Match[str]) -> str:
        kind, text = found[1], html.unescape(found[2]).strip()
        display = "block" if kind == "div" else "inline"
        return convert(text[2:-2].strip(), display=display)

    return re.sub(r'<(div|span) class="arithmatex">(.*?)</\1>', equation, content, flags=re.DOTALL)


def _page(title: str) -> str:
    return f"reference/{re.sub('[^a-z]+', '_', title)}.md"


def _modules(title: str) -> list[str]:
    """The modules and names of a page that exist."""
    face = (ROOT / "jaxrl_prefs" / "__init__.py").read_text()
    found = []
    for name in REFERENCE[title]:
        path = ROOT / name.replace(".", "/")
        is_module = path.with_suffix(".py").exists() or path.is_dir()
        if is_module or f'"{name.removeprefix("jaxrl_prefs.")}",' in face:
            found.append(name)
    return found


def _moved(text: str, source: str) -> str:
    """The text of a document (its path from the root) with links as its page on the site has them.

    A link to a file that is no page, such as the licence, becomes plain text.
    """
    folder = posixpath.dirname(source)
    page = OUTSIDE.get(source, source.removeprefix("docs/"))

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[2]))
        if target in OUTSIDE:
            target = OUTSIDE[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return "]" + NOWHERE
        return found[1] + posixpath.relpath(target, posixpath.dirname(page) or ".") + found[3]

    text = LINK.sub(link, text)
    return re.sub(r"\[([^\]]*)\]" + NOWHERE, r"\1", text)


NOWHERE = "\x00"
