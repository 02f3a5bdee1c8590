"""Gradient steps with labels: `fit`, iterative pruning with tuning in each round, lottery tickets.

Uses criteria and plans without changing them. Does not make tables of many runs.
"""
