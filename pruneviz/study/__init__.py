"""Many pruned models, one table: sweeps, sensitivity, allocation, costs, criterion card, what-if.

These functions return frames. They know no widgets and draw nothing.
"""
