"""What networks look at; none of it is part of a training."""
