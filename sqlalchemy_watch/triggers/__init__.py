"""The database's half: how the triggers get there.

ddl       DDL elements around the functions' text, compiled by SQLAlchemy
install   create_all/drop_all, install(), uninstall(), status()
"""
