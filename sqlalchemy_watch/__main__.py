"""`python -m sqlalchemy_watch`."""

from .cli import main

main()
