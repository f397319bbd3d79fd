"""What runs measured, as tables and plots. Nothing here measures or loads a model."""
