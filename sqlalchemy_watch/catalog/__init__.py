"""What is installed in a database, read from pg_catalog, and how it differs from what is declared.

problems    what `status` and a listener say of watches that can't work
matching    each watch with what is installed for it, and what is left over
status      the state of one watch
comparing   how function and trigger differ from the declaration
reading     the queries
installed   tables, triggers and functions as they exist
virtual     which watches need a column that triggers do not see
"""
