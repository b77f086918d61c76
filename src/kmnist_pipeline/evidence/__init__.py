"""The frame of the stages, the files that they write, and lineage."""
