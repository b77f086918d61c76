"""How the learning rate changes in the course of a training, one a module."""
