"""Figures of your own: every public function here draws one for each model.

It takes the test images (N, H, W) or (N, H, W, 3) uint8, their labels (N,) int64, the class
probabilities (N, C) float64 and the names of the classes, and returns a Matplotlib figure, which it
should start with `canvas.blank`. The name of the function is the name of the file, and the first
paragraph of its docstring is the caption on the pages.
"""
