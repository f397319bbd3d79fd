"""What a model is trained on and measured by: data, prompt and metric, one file per task.

Nothing here knows how a model is trained, pruned or run.
"""
