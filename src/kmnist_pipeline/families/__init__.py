"""The model families: how each trains and predicts."""
