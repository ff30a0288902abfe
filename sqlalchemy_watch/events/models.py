"""Models by name: for events that were pickled or written as JSON, and come back in another process."""

from __future__ import annotations

import pickle
import sys
import uuid
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import MetaData, Table
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import Mapper

from ..declaring.filing import living_watches, metadata_with_watches, owners_in
from ..declaring.spec import READ, CarriedColumn, TableWatch, read_watch
from ..declaring.targets import tables_of
from ..errors import ConfigurationError
from .json_scalars import Codec
from .json_values import codec_of

#: Characters of a foreign text that an error repeats.
_MAX_SHOWN = 100


def name_of_model(model: Any) -> str:
    """Return the name of a class, or the key of a Table."""
    return model.key if isinstance(model, Table) else str(getattr(model, "__name__", model))


def table_of_model(model: Any) -> str:
    """Return the key of the table of a class, or of a Table."""
    if isinstance(model, Table):
        return str(model.key)
    table = sa_inspect(model).local_table
    return str(table.key) if isinstance(table, Table) else ""


def table_name_of_model(model: Any) -> str:
    """Return the name of the table of a class, or of a Table, without its schema."""
    table = model if isinstance(model, Table) else sa_inspect(model).local_table
    return str(table.name) if isinstance(table, Table) else ""


def _watches_for(model: Any, label: str) -> Iterator[TableWatch]:
    """Iterate over the watches that an event of this label may be of: of the class's own table first."""
    if isinstance(model, Table):
        tables = [model]
    else:
        tables = [m.local_table for m in sa_inspect(model).iterate_to_root() if isinstance(m.local_table, Table)]
    for table in dict.fromkeys(tables):
        if label == READ:
            found = read_watch(living_watches(table))
            yield from () if found is None else (found,)
        else:
            yield from (watch for watch in living_watches(table) if watch.label == label)


class WatchedColumns(NamedTuple):
    """The columns of the events of one label of a model."""

    operation: str
    key: tuple[str, ...]
    #: The attributes that whole events carry, the key first.
    carried: tuple[str, ...]
    #: The codec of each attribute, those of `old` included.
    codecs: dict[str, Codec]


_watched: weakref.WeakKeyDictionary[Any, dict[str, WatchedColumns]] = weakref.WeakKeyDictionary()


def watched(model: Any, label: str) -> WatchedColumns:
    """Return the columns of a model's events.

    :raises ConfigurationError: where the model does not watch that.
    """
    known = _watched.get(model, {}).get(label)
    if known is not None:
        return known
    watches = list(_watches_for(model, label))
    if not watches:
        raise ConfigurationError(f"{name_of_model(model)} does not watch {shown(label)}: add it to __watch__")
    carried: dict[str, CarriedColumn] = {}
    compared: dict[str, CarriedColumn] = {}
    for watch in watches:
        carried = {**{column.attribute: column for column in watch.carried}, **carried}
        compared = {**{column.attribute: column for column in watch.compared}, **compared}
    key = tuple(column.attribute for column in watches[0].key)
    names = dict.fromkeys([*key, *(column.attribute for watch in watches for column in watch.carried)])
    codecs = {name: codec_of(column.type) for name, column in {**compared, **carried}.items()}
    found = WatchedColumns(watches[0].operation, key, tuple(names), codecs)
    _watched.setdefault(model, {})[label] = found
    return found


def shown(text: str) -> str:
    """Return a text that may be anybody's, for an error."""
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")


def find_model(name: str, table: str, label: str, targets: Iterable[Any]) -> Any:
    """Return the class or Table of this name among the targets.

    :param table: the key of its table.
    :raises ConfigurationError: where there is none, or more than one.
    """
    tables = tables_of(*targets)
    found = list(dict.fromkeys(_models(tables, name, table, label)))
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(
            f"{len(found)} models are named {shown(name)}, of table {shown(table)}: pass the right one as target"
        )
    raise ConfigurationError(
        f"the targets have no model {shown(name)} of table {shown(table)} that watches {shown(label)}: pass the "
        f"declarative base, MetaData, model or Table that the event is of"
    )


def _models(tables: Iterable[Table], name: str, table: str, label: str) -> Iterator[Any]:
    for each in tables:
        owners = owners_in(each.metadata)
        labels = [label] if label != READ else [known for key, known in owners if key == each.key]
        for owner in dict.fromkeys(owner for known in labels for owner in owners.get((each.key, known), ())):
            if isinstance(owner, Table):
                if owner.key == name == table:
                    yield owner
                continue
            for mapper in owner.base_mapper.self_and_descendants:
                if mapper.class_.__name__ == name and table_of_model(mapper.class_) == table:
                    yield mapper.class_


# ---- References, for pickle

#: By which a MetaData is told from others that have tables of the same names: in this process, and its forked children.
_tokens: weakref.WeakKeyDictionary[MetaData, str] = weakref.WeakKeyDictionary()


class ModelReference(NamedTuple):
    """A model that can't be pickled by reference: a Table, or a class that no module has by its name."""

    name: str
    table: str
    label: str
    token: str

    def resolve(self) -> Any:
        """Return the model.

        :raises UnpicklingError: where this process has none of that name, or several.
        """
        found: dict[Any, MetaData] = {}
        for metadata in metadata_with_watches():
            named = _models(list(metadata.tables.values()), self.name, self.table, self.label)
            found.update(dict.fromkeys(named, metadata))
        same = [model for model, metadata in found.items() if _tokens.get(metadata) == self.token]
        models = same or list(found)
        if len(models) == 1:
            return models[0]
        if models:
            raise pickle.UnpicklingError(
                f"{len(models)} watched models are named {self.name!r} here: send event.to_json(), and read it with "
                f"Event.from_json(text, target)"
            )
        raise pickle.UnpicklingError(
            f"no watched model here is named {self.name!r}: import the module that declares it"
        )


def reference_to(model: Any, label: str) -> Any:
    """Return what is pickled in place of a model: the class itself, or a `ModelReference`."""
    if isinstance(model, type):
        found: Any = sys.modules.get(model.__module__)
        for part in model.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is model:
            return model
    metadata = model.metadata if isinstance(model, Table) else _metadata_of(sa_inspect(model))
    token = _tokens.setdefault(metadata, uuid.uuid4().hex)
    return ModelReference(name_of_model(model), table_of_model(model), label, token)


def _metadata_of(mapper: Mapper[Any]) -> MetaData:
    table = mapper.local_table
    return table.metadata if isinstance(table, Table) else mapper.registry.metadata
