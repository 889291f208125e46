"""Molecules by RDKit and reinvent-chemistry: parsing, scaffolds, fingerprints; no torch here."""
