"""Trainings, prunings and foldings, each a process of its own."""
