"""From requests to tokens: batches, caches, choices and what they are turned back into."""
