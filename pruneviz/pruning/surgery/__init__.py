"""The parts of `shrink`: cut tensors, fold constants, mend sizes, prove the result."""
