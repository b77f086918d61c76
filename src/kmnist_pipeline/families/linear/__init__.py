"""Logistic and softmax regression from scratch (kmnist_linear IV to VII)."""
