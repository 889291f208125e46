"""One self-contained HTML page about one or several runs: tables, curves, molecules, provenance."""

from chemkl.display import Column
from chemkl.reports.page import Table, render_page
from chemkl.reports.view import PageOptions, RunView

__all__ = ["Column", "PageOptions", "RunView", "Table", "render_page"]
