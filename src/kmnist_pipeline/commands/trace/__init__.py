"""`kmnist trace`: the stages that made a file, back to the published data."""
