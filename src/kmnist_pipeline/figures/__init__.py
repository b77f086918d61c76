"""Figures of data sets and models."""
