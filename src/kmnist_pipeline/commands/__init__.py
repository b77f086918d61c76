"""What the subcommands of `kmnist` do, a module or a package each."""
