"""Datasets: sources, file formats, splits and scaling."""
