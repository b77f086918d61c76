"""Convolutional networks (kmnist_cnn II.C and IV)."""
