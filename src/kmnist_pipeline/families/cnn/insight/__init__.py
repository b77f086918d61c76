"""Explanations of a network's predictions; training does not use them."""
