"""Which units can only go together? `find_groups` traces a model and follows every index.

Does not know data, criteria or plans: a group says what may be cut, not what should be.
"""
