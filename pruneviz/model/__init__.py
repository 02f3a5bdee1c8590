"""How is a torch model read and run without a trace? Its layers, tensors, inputs, batches, hooks.

This room does not know what pruning is: it searches no groups and makes no scores or plans.
"""
