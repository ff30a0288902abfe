"""What is installed in a database, read from pg_catalog, and how it differs from what is declared.

status    the queries, and the state of each watch
problems  what a listener warns of
virtual   which watches need a column that triggers do not see
"""
