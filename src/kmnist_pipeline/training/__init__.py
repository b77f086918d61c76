"""How models are trained, one module a family."""
