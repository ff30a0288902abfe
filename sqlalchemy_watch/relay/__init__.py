"""Beyond one machine: changes into message brokers, and one LISTEN for many processes.

From above; each imports only from those below it:

relay, broadcast        what a consumer group is told of into a broker; what NOTIFY brings to many processes
following               the other end of a broadcast: `Listener(via=)`
publishers, sending     what brokers are told with; the broadcast's connection
messages, frames        events as brokers get them; the parts of a broadcast
subjects, naming        the names under which they come
carrier, loops          a connection to NATS; an event loop in a thread

Nothing else of the library imports this room, and a broker's client is imported only where it is used.
"""

from .broadcast import Broadcast
from .following import nats
from .messages import Message
from .publishers import Publisher, Refused, publisher_for
from .relay import Relay, RelayStats

__all__ = ["Broadcast", "Message", "Publisher", "Refused", "Relay", "RelayStats", "nats", "publisher_for"]
