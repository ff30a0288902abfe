"""Alembic sees watches: `alembic revision --autogenerate` writes their triggers into the migration.

plugin       the module that Alembic loads; imports nothing that can fail
compare      declarations and database become operations
states       a watch as it is declared, and as the database holds it, as statements
altering     a table's own operations, with the watches that step aside for them
others       operations by which other tools would drop what is ours
operations   the operations, from one state to another
render       the operations as lines of a migration
factoring    what texts have in common, so that it stands in a migration once

PYTEST_DONT_REWRITE: nothing here is a test's, though a plugin of pytest's comes with it.
"""
