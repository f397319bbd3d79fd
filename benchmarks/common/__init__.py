"""Shapes, random models, timing, plots, and the files of results with where they come from."""
