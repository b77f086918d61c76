"""Faults: mistakes put into a pipeline on purpose, to see which claims would detect them."""
