"""Which units do nothing, or nothing new? Inactive and redundant units, and what bounds prove.

This room reads models and evidence, and returns tables. It chooses nothing and cuts nothing.
"""
