"""What should be removed? Scores by a criterion, and plans made from scores or by hand.

A model, groups and evidence in; scores and plans out. This room does not know how a plan is carried out.
"""
