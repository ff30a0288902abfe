"""The thread that calls receivers, each isolated from the others: batches, retries, dead letters."""
