"""Measurements: each script prints bars and writes what it measured; docs/benchmarks.md says how to read them."""
