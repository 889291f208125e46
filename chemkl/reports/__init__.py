"""One self-contained HTML page about one or several runs: tables, curves, molecules, provenance."""
