"""Durable delivery: a source that reads PostgreSQL's own log from a replication slot, and acknowledges."""
