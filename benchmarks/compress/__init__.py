"""What `cutwork compress` and `--draft auto` bring: choices against uniform rates, drafts without training."""
