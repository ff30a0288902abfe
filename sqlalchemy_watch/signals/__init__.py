"""Signals: blinker's, with filters, batches and streams.

From above; each imports only from those below it:

watch_signals   the signals of a model
filters         the views that `filter_by()` and `touching()` make
feeds           a signal as the listener sees it: all that is connected, and no member of what users see
batches         signals whose receivers get many events at once
registry        the subscriptions to certain values
streams         asynchronous iterators over a signal
matching        values as keys: the way in which filters compare
receivers       the connected receivers, their names, and the way in which each is called
styles          how a receiver takes its arguments
receiver_types  the types of receivers, for type checkers
guard           the lock under which receivers come and go
"""
