"""What reading, dispatching and receivers have in common: parts of transactions, and their ledger."""
