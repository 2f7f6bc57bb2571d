"""Measurements that can be repeated; each writes its figures to `bench/results/`."""
