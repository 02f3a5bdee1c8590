"""Which units can only be removed together? `find_groups` traces a model and follows every index.

This room knows no data, criteria or plans: a group says what may be cut, not what should be cut.
"""
