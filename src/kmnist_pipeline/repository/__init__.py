"""The commits, stages and files of this project that Git and DVC track."""
