"""What do the layers read? `collect` streams moments, gradients and activations.

This room does not know what its numbers are used for: it neither scores nor chooses.
"""
