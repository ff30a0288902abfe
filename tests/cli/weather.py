"""A second application for the command line's tests: values and names that are hard to print."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watch, Watched

LONG_NAME = "readings [bold]of :smile: a station with quite a long name, in"


class Base(DeclarativeBase):
    pass


class Reading(Watched, Base):
    __tablename__ = LONG_NAME
    __watch__ = (Watch("inserted", extra_columns=("rain", "wind", "note", "raw")),)
    id: Mapped[int] = mapped_column(primary_key=True)
    rain: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    wind: Mapped[float]
    note: Mapped[str]
    raw: Mapped[bytes]
