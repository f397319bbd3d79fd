"""What pruning costs, what fine-tuning brings back, and what both take."""
