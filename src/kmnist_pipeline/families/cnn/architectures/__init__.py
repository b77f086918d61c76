"""The networks: each module builds one; PAIRED is whether it takes pairs of images."""
