"""Which words do all rooms share? Errors, names, argument checks, slices, groups, plans.

This room knows torch's tensors and numpy, but no model: nothing here runs, reads or copies one.
"""
