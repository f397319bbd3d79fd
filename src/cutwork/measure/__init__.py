"""Speed and quality of models, compared, and reports of them."""
