"""The networks: each module builds one, and says whether it takes pairs of images."""
