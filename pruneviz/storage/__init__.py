"""How models are stored: files, encodings and their bytes, sparse layers, fingerprints of runs.

This room does not know why a weight is zero or a unit was removed.
"""
