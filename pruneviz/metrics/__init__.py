"""How good, how large, how fast? Accuracy, bytes, MACs, the clock, each with its interval.

Judges one model, or compares two. Does not know how they were pruned.
"""
