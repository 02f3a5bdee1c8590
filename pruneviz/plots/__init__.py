"""Which pictures the package draws: from frames and arrays to `Axes` or SVG text.

These files import only `core`, and neither torch nor models. They compute positions, no results.
"""
