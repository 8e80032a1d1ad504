"""The documentation site: ``python -m sphinx -W -b html docs build/site``, with no network."""

from __future__ import annotations

import re
from importlib.util import find_spec

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import cusoftmax

project = "cusoftmax"
author = "the authors of cusoftmax"
project_copyright = "the authors of cusoftmax"
version = release = cusoftmax.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_parser"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3  # links to headings, as GitHub makes them
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["build"]
if find_spec("torch") is None:  # the module's operators are registered when it is imported
    exclude_patterns.append("api/torch.md")
nitpicky = True
default_role = "autolink"  # what is in backticks is a link, if it is the name of anything here
templates_path = ["_templates"]
# What can be imported and is not ours: numpy.argmax, or an argument with the name of a module.
nitpick_ignore_regex = [("py:obj", r"(?!cusoftmax\b).*")]

autosummary_generate = True
autodoc_mock_imports = ["cupy", "dask", "distributed"]
autodoc_typehints = "none"  # numpydoc's parameters say what they are
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_title = "cusoftmax"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_sidebars = {page: [] for page in ("index", "derivation", "patterns", "profile")}
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 7,
}


def _without_torch(app: Sphinx, name: str, source: list[str]) -> None:
    if find_spec("torch") is None and name == "api/index":
        lines = source[0].splitlines(keepends=True)
        source[0] = "".join(line for line in lines if "torch" not in line)


def _linked(
    app: Sphinx, what: str, name: str, documented: object, options: object, lines: list[str]
) -> None:
    """Make a link of the heading of the derivation that a docstring names."""

    def link(found: re.Match[str]) -> str:
        heading = " ".join(found[1].split())
        anchor = re.sub(r"\W+", "-", heading.lower())
        return f"`Derivation: {heading} <../../derivation.html#{anchor}>`__."

    text = re.sub(r"docs/derivation\.md:\s([^.]+)\.", link, "\n".join(lines))
    lines[:] = text.split("\n")


def _inline_math(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _display_math(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(f'<div class="equation">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.connect("source-read", _without_torch)
    app.connect("autodoc-process-docstring", _linked)
    # Browsers draw MathML themselves: no script, and nothing to fetch.
    app.add_html_math_renderer("mathml", (_inline_math, None), (_display_math, None))
