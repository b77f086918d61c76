"""What conf/ and params.yaml may contain, and the trials of a study."""
