"""The work of the subcommands of `kmnist`: a module or a package for each."""
