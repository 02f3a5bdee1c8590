"""How is a torch model read and run without changing it? Its layers, tensors, inputs, batches, hooks.

This room makes no groups, scores or plans; it only holds masks, and checks that given groups and
plans fit the model.
"""
