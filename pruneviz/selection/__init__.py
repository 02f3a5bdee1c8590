"""What should be removed? Scores by a criterion, and plans made from scores or by hand.

Tensors in, plans out. This room does not know how a plan is carried out.
"""
