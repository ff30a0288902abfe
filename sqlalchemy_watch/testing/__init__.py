"""For tests of applications: events in a transaction that is rolled back, and events without a database.

`Capture` needs no pytest; `pytest_sqlalchemy_watch`, beside this package, has fixtures of it.
"""

from .capture import Capture
from .expecting import Expecting
from .making import make_event

__all__ = ["Capture", "Expecting", "make_event"]
