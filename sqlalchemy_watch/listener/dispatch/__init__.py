"""The thread that calls receivers, each isolated from the others: lanes, batches, retries, dead letters."""
