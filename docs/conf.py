"""The site, as `make docs` builds it: the Markdown files and notebooks that GitHub shows too, and the API reference."""

from __future__ import annotations

import html
import re

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

import maskvos

project = "maskvos"
author = "the maskvos contributors"
project_copyright = f"{author}, Apache-2.0"
release = version = maskvos.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
# The source folder is the repository's root: links between files are written as GitHub needs them.
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "docs/**.rst", "notebooks/*.ipynb"]
exclude_patterns = [".*", "site", "build", "src", "tests"]
suppress_warnings = ["myst.header"]  # the second part of the README starts with a heading of the first level

CONTENTS = {
    "Guide": [
        f"docs/{name}"
        for name in ("prediction", "editing", "archives", "api", "datasets", "flow", "training", "evaluation")
    ],
    "Notebooks": [f"notebooks/{name}" for name in ("quickstart", "data_and_flow", "compare_runs", "add_a_backbone")],
    "Extending": ["docs/extending", "docs/architecture", "docs/testing", "CONTRIBUTING", "CODE_OF_CONDUCT"],
    "Reference": [
        *(f"docs/{name}" for name in ("reference", "model_card", "leaderboard", "performance", "migration")),
        *("CHANGELOG", "SECURITY"),
    ],
}

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # tests run the notebooks

default_role = "py:obj"  # `name` in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_type_aliases: dict[str, str] = {}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_include_special_with_doc = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"maskvos {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


class Chain(Directive):
    """A Mermaid diagram whose boxes form a chain, as a list: Mermaid itself would be loaded from another host."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The boxes in order."""
        boxes = re.findall(r'\w+\["(.+?)"\]', "\n".join(self.content))
        items = "".join(f"<li>{html.escape(box)}</li>" for box in boxes)
        return [nodes.raw("", f'<ol class="chain">{items}</ol>', format="html")]


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Give the README the table of contents of the site, which GitHub would show as code."""
    if name == root_doc:
        for caption, pages in CONTENTS.items():
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"


def setup(app: Sphinx) -> None:
    """Sphinx calls this once."""
    app.add_directive("mermaid", Chain)
    app.connect("source-read", add_contents)
