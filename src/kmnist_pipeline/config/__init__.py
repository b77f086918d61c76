"""What may stand in conf/ and params.yaml, and the trials of a study."""
