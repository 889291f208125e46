"""Parsing, scaffolds, fingerprints and standardisation of molecules with RDKit, without torch."""
