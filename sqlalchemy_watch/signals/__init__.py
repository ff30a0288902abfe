"""Signals (blinker's, with filters, batches and streams), and the events that they carry.

events          `Event`
receivers       the connected receivers, and the way in which each is called
matching        values as keys: the way in which filters compare
batches         signals whose receivers get many events at once
streams         asynchronous iterators over a signal
filters         subscriptions to certain values, and the views that `filter_by()` makes
watch_signals   the signals of a model
"""
