"""MLflow: a view of the evidence, which nothing reads."""
