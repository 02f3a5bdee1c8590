"""Exercises that check themselves: one file of answers for each lesson."""
