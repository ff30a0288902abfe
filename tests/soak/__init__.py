"""Soaks: `python -m tests.soak` has both routes at work for long, while everything fails that can.

notify      ten minutes of random faults, while writers write and an application hears
takeovers   two hundred takeovers between the consumers of a group

What is heard is compared with a ledger that writers keep in the database itself, in the transaction of each change: it
alone is right when a commit's answer got lost. The oracle, which compares, is pure, and has tests of its own.
"""
