"""What a trained model computes, one module a family, and the file it is kept in."""
