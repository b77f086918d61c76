"""Readings: what a publication's numbers would be under each choice that its text leaves open."""
