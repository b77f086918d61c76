"""`kmnist trace`: which stages made a file, from the published data on."""
