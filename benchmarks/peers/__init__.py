"""Cutwork beside the engines people use, on the same random weights."""
