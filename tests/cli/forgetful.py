"""An application that has forgotten `Watched`."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import everything


class Base(DeclarativeBase):
    pass


class Plain(Base):
    __tablename__ = "plain"
    __watch__ = everything()
    id: Mapped[int] = mapped_column(primary_key=True)
