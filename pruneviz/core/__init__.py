"""The words that every room uses: errors, names, argument checks, slices, groups, plans.

Knows torch's tensors and numpy, and no model: nothing here runs, reads or copies one.
"""
