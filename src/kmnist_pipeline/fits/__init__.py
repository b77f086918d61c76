"""Fits: the training of one trial on one seed and fold, computed once and kept by key."""
