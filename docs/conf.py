"""Sphinx's configuration: `sphinx-build -W docs build/site` makes the site, without the network.

The pages are Markdown, for GitHub as well; the reference comes from the docstrings, in which single backticks are code
that links to what it names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.sql import PostgresLexer
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.highlighting import lexers

import sqlalchemy_watch

ROOT = Path(__file__).parents[1]

project = "sqlalchemy_watch"
release = sqlalchemy_watch.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_heading_anchors = 3
lexers["sql"] = PostgresLexer()  # which knows `DO $$`

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
add_module_names = False
toc_object_entries_show_parents = "hide"
default_role = "py:code"
python_maximum_signature_line_length = 88

html_theme = "sphinx_book_theme"  # as Alembic's
html_title = "sqlalchemy_watch"
html_theme_options = {
    "show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False, "navbar_persistent": [],
}  # fmt: skip
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

#: Classes that the library alone calls.
NOT_CALLED = {
    "WatchSignals", "WatchSignal", "FilteredSignal", "EventsSignal", "EventStream", "EventIterator", "Resync",
    "TransactionsSignal", "Transaction", "Details", "Event", "Stats", "WatchStatus", "RelayStats", "Message",
    "Publisher", "Expecting", "LiveResults", "Patch", "Webhook", "Invalidation", "Loading",
    "Instrumentation",
}  # fmt: skip

#: The pages whose text stands beside this directory.
BESIDE = {"overview": "README.md", "contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}


class CodeOfOurs(PyXRefRole):
    """Single backticks in a docstring: code, and a link where that names something in the reference."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        self.title, self.target, self.has_explicit_title = self.text, self.text.partition("(")[0], True
        return super().run()


def read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Take the text from where it is, and have links to files outside of docs/ lead to the pages that show them."""
    text = source[0]
    if docname in BESIDE:
        path = ROOT / BESIDE[docname]
        app.env.note_dependency(path)
        text = re.sub(r"\]\((?!https?:|#)", "](../", path.read_text())
    text = re.sub(r"\]\(\.\./examples/(?:README\.md|(\w+)[/.\w]*)?\)", _example, text.replace("](../docs/", "]("))
    for page, file in BESIDE.items():
        text = text.replace(f"](../{file}", f"]({page}.md")
    source[0] = text


def _example(match: re.Match[str]) -> str:
    return f"](examples.md#{match[1]})" if match[1] else "](examples.md)"


def shorten_signature(
    app: Sphinx, kind: str, name: str, member: Any, options: Any, arguments: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Leave out the parameters that nobody gives, and write our marks for "not given" as three dots."""
    if name.rpartition(".")[2] in NOT_CALLED or name.startswith("pytest_sqlalchemy_watch."):
        return "", None
    if arguments is not None:
        arguments = re.sub(r"<object object>|(?<==)ANY\b|(?<=headers=)\[.*\]", "...", arguments)
        arguments = re.sub(r"<function (\w+)>", r"\1", arguments)
    return arguments, returns


def find_in_package(app: Sphinx, env: Any, node: Any, shown: Any) -> Any:
    """Look in the package itself for what a docstring of one of its modules names."""
    if node.get("refdomain") != "py" or node.get("py:module") in (None, "sqlalchemy_watch"):
        return None
    node["py:module"], node["py:class"] = "sqlalchemy_watch", None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, shown)


def put_in_drawings(app: Sphinx, doctree: nodes.document) -> None:
    """Make drawings a part of the page: their text can be selected, and they have the page's colours."""
    for image in list(doctree.findall(nodes.image)):
        if image["uri"].endswith(".svg"):
            drawing = (Path(app.srcdir) / image["uri"]).read_text()
            image.parent.replace(image, nodes.raw("", drawing, format="html"))


def setup(app: Sphinx) -> None:
    app.add_role_to_domain("py", "code", CodeOfOurs())
    app.connect("source-read", read_page)
    app.connect("doctree-read", put_in_drawings)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", find_in_package)
