"""What do the layers see on data? `collect` streams moments, gradients and activations.

This room does not know what its numbers are used for: it neither scores nor chooses.
"""
