"""Read and run a torch model without a trace: its layers, tensors, inputs, batches and hooks.

Does not know what pruning is: no groups are searched, no scores, no plans here.
"""
