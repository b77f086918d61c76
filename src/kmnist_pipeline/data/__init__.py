"""Data sets: sources, file formats, splits and scaling."""
