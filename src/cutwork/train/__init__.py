"""Sparse fine-tuning with torch: losses, masks, calibration, pruners and the trainer.

Nothing here may import `cutwork.engine`.
"""
