"""The installed triggers, read from pg_catalog, and how they differ from the declarations.

problems    warnings for `status` and for a listener's log
matching    each watch with its installed trigger and function, and the left-overs
status      the state of one watch
ownership   what has our mark, and is not ours all the same
comparing   differences of function and trigger, in words
reading     the queries
installed   tables, triggers and functions as they exist
virtual     columns that have no value in a trigger
modes       the sessions in which a trigger fires
levels      the level that a table needs, and the writes that a trigger misses
listening   how many sessions listen
claims      whose a function is that has the name a watch needs
"""
