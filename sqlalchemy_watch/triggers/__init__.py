"""The database's half: creating and dropping the triggers.

ddl       DDL elements around the functions' text, compiled by SQLAlchemy
checking  conditions, tried before a row is written
install   create_all/drop_all, install(), uninstall(), status()
roles     the roles that may change a trigger
"""
