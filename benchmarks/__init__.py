"""One script for each table of BENCHMARKS.md; run one as `python -m benchmarks.tracing`."""
