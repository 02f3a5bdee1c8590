"""Which words do all rooms share? Errors, names, argument checks, slices, groups, plans.

This room checks that an argument is a model, but runs, changes and copies none.
"""
