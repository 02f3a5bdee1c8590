"""Many pruned models, one table: sweeps, sensitivity, allocation, costs, criterion card, what-if.

These functions return frames, and results made of frames and numbers. They know no widgets and draw nothing.
"""
