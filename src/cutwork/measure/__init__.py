"""Speed and quality of models, which only this package runs for tasks, compared and reported.

speed    prefill and decode of several models, interleaved
quality  answers to a task's questions, counted
harness  tasks of lm-eval, answered by the engine; task_files: what these are made of
interval how far a fraction may be off
context  how many tokens either needs room for
compare  the end of a run: both, of every variant; report/: its tables and plots
"""
