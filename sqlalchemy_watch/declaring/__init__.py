"""Declarations and their validation, with no database and no signals.

spec         `Watch` as it is declared, `TableWatch` as it applies to one table
filing       watches in the MetaData, where the other rooms find them
references   conditions that name a table in place of a row
ordering     sets get an order
naming       names of triggers, functions and channels
dialect      the PostgreSQL dialect that text is written in
conditions   `when` as SQL
operators    SQLAlchemy's operators as PostgreSQL's own, each with its schema
own_types    which types are PostgreSQL's own
parentheses  which SQL text can be an operand as it is
truth        Python's `and` and `or` in it are refused
hierarchy    mapped inheritance
targets      from bases, MetaData and models to their tables
"""
