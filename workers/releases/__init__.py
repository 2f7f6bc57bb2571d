"""Releases: from a folder of photographs to stego files in the store, each item done exactly once."""
