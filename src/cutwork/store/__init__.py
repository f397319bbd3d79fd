"""Files and directories: what a model directory is, where it comes from, how a new one appears."""
