"""The database's half: what a watch is in PostgreSQL, and how it gets there.

body         the text of the trigger functions
expressions  SQL expressions over the rows of a statement
mark         the first line of a body, which says that it is ours
quoting      names and strings as SQL text
ddl          DDL elements around it, compiled by SQLAlchemy
catalog      what is installed, read from pg_catalog, and how it differs from what is declared
virtual      which watches need a column that triggers don't see
install      create_all/drop_all, install(), uninstall(), status()
"""
