"""Which units do nothing, or nothing new? Inactive and redundant units, and what bounds prove.

Reads models and evidence, and returns tables. Does not choose and does not cut.
"""
