"""The command `kmnist`."""
