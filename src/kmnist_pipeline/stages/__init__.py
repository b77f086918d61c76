"""The six stages: each reads like the line in dvc.yaml that runs it."""
