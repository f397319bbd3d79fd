"""A recipe carried out: `run` says what its stages are, `stages` keeps, resumes and makes them anew."""
