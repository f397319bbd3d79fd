"""Tables and plots of what a run measured. Reads JSON, writes text and PNG; measures nothing itself."""
