"""A matrix of declarations and statements, and the events that each statement is heard as.

The text of the functions may change; what is heard of a statement may not. `golden/` has the events of all statements,
as they were recorded. Whoever changes them on purpose records them anew, and shows the difference::

    python -m tests.functions.matrix --record [PART ...]

declarations      the models, declared alike for each way of delivery at each level
sizes             parts: few and many rows, short and long ones
kinds_of_tables   parts: types, keys, hierarchies, names, conditions, partitions
kinds_of_writes   parts: statements, transactions, what writers set, other triggers, faults
differences       parts whose events the next text changes on purpose
parts             all of them
hearing           runs a part, and writes down what real listeners hear of its steps
golden            the files: the events of each step, once for all that hear the same
"""
