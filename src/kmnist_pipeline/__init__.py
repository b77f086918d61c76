"""Reproducible character classification on KMNIST and MNIST."""
