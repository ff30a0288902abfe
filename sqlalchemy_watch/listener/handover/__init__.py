"""The items and the queues between the thread that reads and the thread that dispatches."""
