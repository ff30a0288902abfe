"""The process's half: notifications become events, events reach receivers.

::

    server -> notify or wal --parts of transactions--> dispatch --events--> receivers, lanes, batches, streams
                   ^------ acknowledged, full ------- ledger <------ done ------

Rooms, from above; each imports only from those below it:

listener    `Listener`, the public face
run         everything that lives from one `start()` to its `stop()`; health (for probes), unheard (said at the start)
notify      the LISTEN source: protocol (pure), session (a connection), source (the life of its thread), turns,
            exclusive (one of several processes), dropped
wal         the source of a replication slot: messages, skipped, protocol, liveness and takeover (pure), slots,
            large (what libpq holds), answers, visibility, monitor, preparing, session, standby, source
dispatch    the thread that calls receivers: dispatcher, receivers, lanes, batches, transactions, failures (the policy
            of each way), resyncs, placing with lookups and unplaced (whose event is it?), calls, positions, letters
            and their table, garbage
source      the parts of every source: Keeper (the one loop: connect, read, lose, back off), Wake, Poller, Tokens
lifecycle   the listener's own signals
server      connections as the engine makes them, questions to the catalog, checks, a limit for each query
decoding    payloads to values (payload and rows are pure), routes, encodings
pipeline    parts (of transactions), the ledger (what is done), the inbox of the dispatch thread, the gate (tenures)
waiting     the dispatch thread's waiting for coroutine receivers, and for time to pass
options, heartbeat and xids (pure), stats, processes, naming, foreground, surrounding (of receivers' calls)

The threads of a running listener, what each owns, and the only objects that two of them touch:

==========================  ============================================================================================
thread                      owns
==========================  ============================================================================================
`sqlalchemy-watch-listen`   NOTIFY: the connection, NotifySession and NotifyProtocol, in turns with the dispatch thread
`sqlalchemy-watch-wal`      durable: the walsender connection, WalSession, WalCore, Liveness, Position, Before, Standby
`sqlalchemy-watch-slot`     durable: SlotMonitor's connection and its part of the stats; looks at the triggers
`sqlalchemy-watch-dispatch` the dispatcher, its batches and transactions, the decoders; calls every plain receiver, but
`sqlalchemy-watch-worker-N` with `workers=`: what is in front of the lane that it runs; calls its receivers
`sqlalchemy-watch-ask`      for one look-up: a connection of the engine's own kind, and its `connect` events
the caller's                `start`, `run`, `stop`, `catch_up`, `stats`, `healthy`
an event loop's             coroutine receivers, which the dispatch thread waits for
==========================  ============================================================================================

==================  ======================================  ============================================================
shared              between                                 by
==================  ======================================  ============================================================
Inbox               source puts, dispatch takes             a SimpleQueue; counters with one writing thread each; its
                                                            lock where something is dropped
Ledger              source begins, dispatch and whoever     its lock, a leaf; what was handled is noted without it
                    keeps an event hold and let go
Gate                source opens, closes and renews,        its lock; `needs_attention` is a single assignment
                    callers stop, dispatch and workers pass
Lanes               dispatch appends, workers take          its lock; whoever has a lane alone looks at its front
a stream            dispatch appends, its consumer takes    its lock; an event is held before, and let go of after
Turns               listen and dispatch                     its lock: one of them has the session at a time
Tokens              callers add, the source finds           its lock
Wake                anybody wakes, the source waits         a pair of sockets
SourceState         the source writes, callers read         `ready` is an event; the rest are single assignments
Keeper.stopping     callers set, the source waits           an event
Look                wal asks, slot answers                  one lock; `seen` is a single assignment
Stats               each part has one writing thread        single assignments; `stats()` copies
Xids                wal widens, slot notes the newest       single assignments
Dispatcher._newest  dispatch writes, callers read           a single assignment
LookUps._guess      the source writes, dispatch reads       a single assignment
a signal's          whoever connects writes,                the lock of `signals.guard`; dispatch reads tuples
receivers           dispatch reads                          that are replaced and never changed
Surroundings        callers add, dispatch and workers read  its lock; a tuple that is replaced and never changed
Waiting             dispatch waits, callers stop it, event  futures; what is running is a single assignment
                    loops end calls
Run.is_running      callers                                 `processes.lock`
==================  ======================================  ============================================================

No receiver is called while a lock is held, and whoever holds a lock takes no other. A garbage collection may run a
finalizer, and in it somebody's `stop()`, in any thread at any time: so the locks that `stop()` takes are reentrant.
"""
