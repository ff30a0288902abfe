"""Signals and what they carry: blinker's, with filters, batches and streams.

events          `Event`
receivers       how each connected receiver is called
watch_signals   the signals of a model
streams         asynchronous iterators over a signal
"""
