"""The networks, one a module; PAIRED says whether a network takes pairs of images."""
