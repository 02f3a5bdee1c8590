"""Widgets: they read their controls, call the verbs, and show what came out.

No maths and no torch here; what a picture looks like stands in `plots`.
"""
