"""Exports: a finished release as tar shards with a manifest, checksums, a privacy report and the
releases' risk reports; on a schedule, by the window.
"""
