"""Costs and savings of the library, beside other packages and triggers written by hand.

`python -m benchmarks` starts a PostgreSQL of its own, measures everything side by side and writes
docs/benchmarks.md; `--quick` has fewer rows and rounds, `--only NAME` (repeatable) some of the tables. It
needs the dependency group `benchmarks`.
"""
