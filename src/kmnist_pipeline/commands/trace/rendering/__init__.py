"""A trace as text, as a graph and as a JSON document."""
