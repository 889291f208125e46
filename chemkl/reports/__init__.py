"""One self-contained HTML page about one or several runs: tables, curves, molecules, provenance."""

from chemkl.display import Column
from chemkl.reports.page import render_page
from chemkl.reports.page_options import PageOptions
from chemkl.reports.tables import Table
from chemkl.reports.view import RunView

__all__ = ["Column", "PageOptions", "RunView", "Table", "render_page"]
