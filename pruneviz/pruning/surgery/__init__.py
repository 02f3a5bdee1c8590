"""The parts of `shrink`: cut tensors, fold constants, update sizes, check the result."""
