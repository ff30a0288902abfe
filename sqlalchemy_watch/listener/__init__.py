"""The process's half: notifications become events, events reach receivers.

listener      `Listener`, which puts the rest together

Reading:
connect       from an engine's settings to a psycopg connection of the listener's own
server        what a server has to be, and which schemas its tables are in
notify        the LISTEN source: connects, LISTENs, proves it, reconnects
turns         whose turn it is to read: the source's thread, or the dispatch thread while that is idle
queue         the bounded queues in between
watchdog      a limit in seconds for blocking queries
backoff       how long to wait before the next attempt

Reading the log instead, for a consumer group:
wal           the source of a replication slot
walsender     its connection: reading, status updates, heartbeats
replication   the replication protocol's messages
position      where in the log a consumer is
tokens        what catch_up() waits for in the log
timelines     what a promoted server's log has in common with the one before
slots         slots and the publication
monitor       looks at the slot from outside

Dispatching:
payload, rows, values    bytes -> fields -> rows -> Python values
encodings     payloads of databases that are not UTF-8
routes        which signals a channel feeds, and which class a row is of
dispatch      the thread that calls receivers, each isolated from the others
gather        events that wait for others, for receivers of batches
durable       dispatching with acknowledgement, retries
dead_letters  the table of events that were given up
stats         what a listener tells about itself
"""
