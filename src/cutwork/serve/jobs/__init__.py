"""The threads that run models, and the jobs they have."""
