"""What is watched: declarations and their validation, with no database and no signals.

spec         `Watch` as it is declared, `TableWatch` as it applies to one table
naming       names of triggers, functions and channels
dialect      PostgreSQL as text is written for it
conditions   `when` as SQL
hierarchy    mapped inheritance
targets      the tables that bases, MetaData and models stand for
"""
