"""Pictures: frames and arrays in, `Axes` or SVG text out.

A side branch that knows `core` only: no torch, no model, nothing is computed but positions.
"""
