"""The process's half: notifications become events, events reach receivers.

connect    from an engine's settings to a psycopg connection of the listener's own
notify     the source: the thread that LISTENs, drains the socket and reconnects
queue      the bounded queue between the two threads
values     payload values -> the Python values that loading the row would give
payload    payload -> rows
routes     which signals a channel feeds, and which class a row is of
dispatch   the thread that calls receivers, each isolated from the others
listener   `Listener`, which puts them together
"""
