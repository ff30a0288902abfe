"""What the library costs and what it saves, beside what people write themselves and other packages.

`python -m benchmarks` starts a PostgreSQL of its own, measures everything side by side and writes
docs/benchmarks.md; `--quick` has fewer rows and rounds, `--only NAME` (repeatable) some of the tables. It
needs the dependency group `benchmarks`.
"""
