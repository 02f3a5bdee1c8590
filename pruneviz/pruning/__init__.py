"""Carry out a plan: `mask`, `shrink`, `prune`; repair the kept weights and check every removal.

These functions take a model and a plan and return a new model. They do not choose a budget and do
not judge accuracy.
"""
