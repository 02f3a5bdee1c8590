"""What is kept: model files, encodings and their bytes, sparse layers, fingerprints of runs.

Does not know why a number is zero or a unit is missing.
"""
