"""Regression by scikit-learn (mnist_logistic 4.5, kmnist_cnn II.B)."""
