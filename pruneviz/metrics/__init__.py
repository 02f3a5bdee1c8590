"""How good, how large, how fast is a model? Accuracy, bytes, MACs, latency, with their intervals.

This room judges one model, or compares two. It does not know how they were pruned.
"""
