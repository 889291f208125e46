"""SMILES text to batches: sources, cleaning, splits, and what a model reads."""
