"""`Event`, and the ways in which it goes elsewhere and comes back.

From above; each imports only from those below it:

event           `Event`
json_events     events as JSON
models          models by name, for events that come back
messages        the parts of events
json_values     the values of columns in JSON, with json_scalars and python_values
mappings        what `event.values`, `event.old` and `event.context` are
loading         `event.load()`
"""
