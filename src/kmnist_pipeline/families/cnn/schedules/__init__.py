"""Schedules of the learning rate during a training, one a module."""
