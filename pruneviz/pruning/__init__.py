"""Carry out a plan: `mask`, `shrink`, `prune`; repair what is left and prove what was cut.

Takes a model and a plan and returns a new model. Never chooses a budget, never judges accuracy.
"""
