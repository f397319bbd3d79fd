"""HTTP itself: the application, what stands before it, errors and streams."""
