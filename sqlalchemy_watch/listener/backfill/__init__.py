"""Existing rows: read in chunks, each of which takes its place among the events."""
