"""Tables of orders that change in the browser while other programs write: FastAPI, server-sent events and htmx."""
