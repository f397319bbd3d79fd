"""What clients can ask for, one file per kind of route: its fields, what it does, its answer."""
