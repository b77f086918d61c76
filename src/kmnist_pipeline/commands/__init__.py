"""What the subcommands of `kmnist` do, one module each."""
