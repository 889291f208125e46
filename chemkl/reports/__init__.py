"""One self-contained HTML page about one or several runs: tables, curves, molecules, provenance."""

from chemkl.reports.page import Column, render_page
from chemkl.reports.view import RunView

__all__ = ["Column", "RunView", "render_page"]
