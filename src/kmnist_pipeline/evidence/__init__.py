"""The code around every stage: its outs, their paths, and its lineage."""
