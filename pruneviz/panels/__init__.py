"""Widgets: each reads its controls, calls the library, and shows the result.

Panels hold no maths and import no torch; `plots` draws their pictures.
"""
