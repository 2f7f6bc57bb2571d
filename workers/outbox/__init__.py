"""The outbox: carries messages from their transaction to the brokers, and brings back what stalled on the way."""
