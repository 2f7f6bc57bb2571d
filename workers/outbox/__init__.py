"""The outbox: carries messages and alerts from their transaction to where they are waited for, and brings back what
stalled on the way.
"""
