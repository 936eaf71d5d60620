"""Experiments and measurements; each is run with ``python -m benchmarks.NAME``."""
