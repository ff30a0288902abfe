"""Watches of tables that a `schema_translate_map` leads to other schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from sqlalchemy import Connection, Engine

from .spec import Discriminator, TableWatch

#: SQLAlchemy's execution option of this name: from schemas as they are declared to those in the database.
SchemaMap: TypeAlias = Mapping[str | None, str | None]

NO_MAP: Final[SchemaMap] = {}


def map_of(bind: Engine | Connection) -> SchemaMap:
    """Return the map that an engine or a connection has; an empty one without."""
    return bind.get_execution_options().get("schema_translate_map") or NO_MAP


def translated_place(schema: str | None, table: str, schemas: SchemaMap) -> tuple[str | None, str]:
    """Return schema and name of the table that the map leads to."""
    return schemas.get(schema, schema), table


def translated(watch: TableWatch, schemas: SchemaMap) -> TableWatch:
    """Return the watch of the table that the map leads to.

    A table declared without a schema stays one in the function's text and in the channel's name: its function tells
    the schema that it fires in, so that one listener may hear it in several.
    """
    if not schemas:
        return watch
    discriminator = _translated_lookup(watch.discriminator, schemas)
    schema = schemas.get(watch.schema, watch.schema)
    if watch.schema is None:
        return replace(watch, discriminator=discriminator, translated_schema=schema)
    return replace(watch, discriminator=discriminator, schema=schema)


def _translated_lookup(discriminator: Discriminator | None, schemas: SchemaMap) -> Discriminator | None:
    if discriminator is None or discriminator.lookup is None:
        return discriminator
    lookup = discriminator.lookup
    return replace(discriminator, lookup=replace(lookup, schema=schemas.get(lookup.schema, lookup.schema)))
