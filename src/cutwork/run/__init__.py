"""A recipe carried out: its stages, kept, resumed and done again when their settings change."""
