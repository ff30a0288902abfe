"""The parts of the matrix, by name. Each has tables of its own, or leaves them as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from . import differences as d
from . import kinds_of_tables as t
from . import kinds_of_writes as w
from . import sizes as s
from .hearing import Hearing

Part: TypeAlias = Callable[[Hearing], Any]

#: What is heard the same way whatever the text of the functions is like.
SAME: tuple[Part, ...] = (
    s.numbers_of_rows, s.many_rows, s.long_rows, s.long_rows_among_others, s.long_keys,
    t.types, t.composite_keys, t.joined_inheritance, t.joined_inheritance_in_a_schema, t.single_table_inheritance,
    t.hostile_names, t.conditions, t.partitions,
    w.kinds_of_statements, w.merge, w.transactions, w.muted_writers, w.contexts, w.other_triggers, w.references,
    w.faults,
)  # fmt: skip

#: What the next text changes on purpose.
DIFFERENT: tuple[Part, ...] = (
    d.changed_keys, d.changed_keys_of_several_columns, d.changed_keys_that_cascade, d.rows_updated_twice_in_a_statement,
    d.stored_bytes, d.names_that_differ_in_case_alone, d.keys_that_do_not_fit_among_others,
    d.contexts_that_are_too_long, d.keywords_as_names, d.integers_retyped_by_hand,
)  # fmt: skip

PARTS: dict[str, Part] = {part.__name__: part for part in (*SAME, *DIFFERENT)}
