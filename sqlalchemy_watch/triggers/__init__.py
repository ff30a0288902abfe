"""The database's half: what a watch is in PostgreSQL, and how it gets there.

body      the text of the trigger functions
ddl       DDL elements around it, compiled by SQLAlchemy
catalog   what is installed, read from pg_catalog, and how it differs from what is declared
install   create_all/drop_all, install(), uninstall(), status()
"""
