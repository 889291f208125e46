"""File formats: the trace of a run, its columns with their meanings, the manifest; no torch."""

from chemkl.results.atomic import write_bytes, write_json, write_parquet
from chemkl.results.columns import described_schema, description_of, trace_components, trace_schema
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import InputFile, config_hash, sha256_of
from chemkl.results.trace import TraceWriter, find_trace, read_orphans, read_trace

__all__ = [
    "InputFile",
    "Manifest",
    "TraceWriter",
    "config_hash",
    "described_schema",
    "description_of",
    "find_trace",
    "read_orphans",
    "read_trace",
    "sha256_of",
    "trace_components",
    "trace_schema",
    "write_bytes",
    "write_json",
    "write_parquet",
]
