"""`cutwork serve` under load."""
