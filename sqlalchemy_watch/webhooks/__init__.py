"""Signed webhooks: a receiver that tells a partner's endpoint of each event, as Standard Webhooks has it.

::

    Order.watch.shipped.connect(webhook("https://partner.example/orders", secret=secret), name="partner")

It is made for consumer groups: an event counts as taken once the partner has answered so, and is sent again under the
same id until then. From above; each imports only from those below it:

receiver    `webhook`, and what is made of an answer
sending     the calls, each within its time, by httpcore (extra `webhooks`)
signing, payloads, targets, answers    pure: secrets and signatures; what is sent; where to; Retry-After

Nothing else of the library imports this room.
"""

from ..extras import needs
from .answers import WebhookFailed
from .signing import new_secret

with needs("webhooks", "httpcore", __name__):
    from .receiver import Webhook, webhook

__all__ = ["Webhook", "WebhookFailed", "new_secret", "webhook"]
