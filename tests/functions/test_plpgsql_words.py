"""Columns may be called what PL/pgSQL has words or variables for: as keys, carried, compared and in conditions."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Recorder
from psycopg import sql
from sqlalchemy import Engine
from support import resync_reasons

from sqlalchemy_watch import Listener, Watch, watch
from sqlalchemy_watch.declaring.dialect import PLPGSQL_WORDS

pytestmark = pytest.mark.server

#: Words that are not reserved, variables, and names that the functions might use themselves.
OTHERS = """
absolute alias and array assert backward call chain close collate column column_name commit constant constraint
constraint_name continue current cursor datatype debug default detail diagnostics do dump elseif elsif errcode error
exception exit fetch first forward get hint import info insert is last log merge message message_text move next no
notice open option perform pg_context pg_datatype_name pg_exception_context pg_exception_detail pg_exception_hint
pg_routine_oid print_strict_params prior query raise relative return returned_sqlstate reverse rollback row_count
rowtype schema schema_name scroll slice sqlstate stacked table table_name type update use_column use_variable
variable_conflict warning
new old found tg_argv tg_event tg_level tg_name tg_nargs tg_op tg_relid tg_relname tg_table_name tg_table_schema tg_tag
tg_when sqlerrm
r o p w j k0 piece watch watch_new watch_old watch_root text bigint integer record
"""

WORDS = [*sorted(PLPGSQL_WORDS), *OTHERS.split()]

#: As many columns as a key may have.
GROUPS = [WORDS[first : first + 30] for first in range(0, len(WORDS), 30)]


@pytest.mark.parametrize("level", ["statement", "row"])
@pytest.mark.parametrize("number", range(len(GROUPS)))
def test_columns_called_like_words(
    engine: Engine, client: psycopg.Connection[Any], recorder: Recorder, level: Any, number: int
) -> None:
    keys, others = GROUPS[number], GROUPS[number - 1]
    metadata = sa.MetaData()
    table = sa.Table(
        keys[0], metadata,
        *(sa.Column(word, sa.Integer, primary_key=True, autoincrement=False) for word in keys),
        *(sa.Column(word, sa.Integer) for word in others),
    )  # fmt: skip
    signals = watch(
        table,
        Watch("inserted", extra_columns=others, level=level),
        Watch("deleted", extra_columns=others, level=level, old=True),
        *(
            Watch("updated", label=f"at_{word}", trigger_columns=(word,), extra_columns=(word,), old=True, level=level,
                  when=lambda old, new, word=word: getattr(new, word) == 2)
            for word in others
        ),
    )  # fmt: skip
    signals.connect(recorder)
    metadata.create_all(engine)
    name = sql.Identifier(keys[0])
    with Listener(engine, metadata) as listener:
        reasons = resync_reasons(listener)
        client.execute(
            sql.SQL("INSERT INTO {} SELECT {}").format(
                name, sql.SQL(", ").join([sql.Literal(1)] * (len(keys) + len(others)))
            )
        )
        for word in others:
            client.execute(sql.SQL("UPDATE {} SET {} = 2").format(name, sql.Identifier(word)))
        client.execute(sql.SQL("DELETE FROM {}").format(name))
        listener.catch_up()
    assert reasons == []
    labels = ["inserted", *(f"at_{word}" for word in others), "deleted"]
    assert recorder.heard() == [(label, (1,) * len(keys)) for label in labels]
    assert [event.old[word] for word, event in zip(others, recorder.events[1:], strict=False)] == [1] * len(others)
