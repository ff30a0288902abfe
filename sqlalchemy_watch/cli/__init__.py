"""The command line, `sqlalchemy-watch`."""
