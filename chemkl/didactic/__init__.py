"""Policies over a few tokens, trained by sampling: Figs 1-5 of arXiv 2510.20817."""
