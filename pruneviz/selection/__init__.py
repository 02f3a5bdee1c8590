"""What should go? Scores by a criterion, and plans made of scores or by hand.

Tensors in, plans out. Does not know how a plan is carried out.
"""
