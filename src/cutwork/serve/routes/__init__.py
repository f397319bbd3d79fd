"""What clients can ask for, one file per family of routes."""
