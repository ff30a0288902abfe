"""What an application's database lacks for it to be heard, each with the command that helps; see docs/platforms.md.

::

    database --reading--> facts --judging, durable, triggers--> findings

examining   `examine`: reads what there is, and has it judged
subjects    whose database it is: a listener's, or that of targets and a URL
reading     the questions to the server
judging     server, pooler, role, settings and listeners: pure
durable     what a consumer group needs besides, and its slot: pure
triggers    the triggers, and the rights that installing them takes: pure
remedies    commands, by platform: pure
platforms   whose server it is, and what is in front of it: pure
facts       what was read
findings    what was found
"""

from .examining import examine
from .findings import Finding, Part, Remedy, State
from .subjects import Subject, subject_of_listener, subject_of_target

__all__ = ["Finding", "Part", "Remedy", "State", "Subject", "examine", "subject_of_listener", "subject_of_target"]
