"""Figures of datasets and models."""
