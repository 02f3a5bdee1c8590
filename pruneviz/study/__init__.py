"""Many prunings, one table: sweeps, sensitivity, allocation, costs, the criterion card, what-if.

Returns frames. Knows no widgets and draws nothing.
"""
