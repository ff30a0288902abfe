"""The tables: orders of several tenants, each of whom sees its own."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import Engine, ForeignKey, Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_watch import Watched, everything, install


class Base(DeclarativeBase):
    pass


class Org(Base):
    __tablename__ = "orgs"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Order(Watched, Base):
    __tablename__ = "orders"
    # All that a row of the page shows is carried, so that nobody has to ask the database when a row changes. And the
    # columns by which live queries look rows up; what they had before is carried as well, for a row that leaves.
    __watch__ = everything("org_id", "customer", "status", "total")

    id: Mapped[int] = mapped_column(primary_key=True)
    org_id: Mapped[int] = mapped_column(ForeignKey("orgs.id"))
    customer: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="new")
    total: Mapped[Decimal] = mapped_column(Numeric(10, 2), server_default="0")


def prepare(engine: Engine) -> None:
    """Make tables, triggers and the two tenants, where they are missing."""
    Base.metadata.create_all(engine)
    install(engine, Base)  # for a table that was there before its watches
    with Session(engine) as session, session.begin():
        for org in (Org(id=1, name="The Bakery"), Org(id=2, name="The Bookshop")):
            session.merge(org)
