"""Connections of the listener's own, what a server has to be, and a limit for each query."""
