"""A listener, as `doctor` takes it."""

from __future__ import annotations

import os

from shop import Base
from sqlalchemy import create_engine

from sqlalchemy_watch import Listener

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:"))
mailer = Listener(engine, Base, durable="mailer", max_attempts=5)
pages = Listener(engine, Base)
