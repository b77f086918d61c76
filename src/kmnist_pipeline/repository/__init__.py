"""What Git and DVC know of this project."""
