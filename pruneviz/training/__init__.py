"""Gradient steps with labels: `fit`, pruning in rounds with tuning between, lottery tickets.

Uses criteria and plans as they are. Does not make tables of many runs.
"""
