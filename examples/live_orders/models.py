"""The tables: orders of several tenants, each of whom sees its own."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import Engine, ForeignKey, Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_watch import Watch, Watched, install


class Base(DeclarativeBase):
    pass


class Org(Base):
    __tablename__ = "orgs"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


# All that a row of the page shows is carried, so that nobody has to ask the database when a row changes.
CARRIED = ("org_id", "customer", "status", "total")


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = (
        Watch("inserted", extra_columns=CARRIED),
        Watch("updated", extra_columns=CARRIED, old=True),  # `old`: a tenant is told of rows that leave it
        Watch("deleted", extra_columns=CARRIED),
        "truncated",
    )

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
