"""Cutwork's engine by itself."""
