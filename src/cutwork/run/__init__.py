"""A recipe carried out, stage by stage.

run             what its stages are; stages: keeps, resumes and makes them anew; former: what they had made before
durations       what they will take here
preview         how fast the pattern of zeros will be, before anything is trained
hub_repository  a finished run on the Hub
"""
