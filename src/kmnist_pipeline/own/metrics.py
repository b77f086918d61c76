"""Metrics of your own: every public function here is one, and gets the name of the function.

It takes the labels (N,) int64 and the class probabilities (N, C) float64 of the test images, and
returns a finite number. It is then in `test.json` of every model, on the pages and in MLflow. Like
every change of code, a new function makes the stages that use it stale; nothing is trained again.
"""
