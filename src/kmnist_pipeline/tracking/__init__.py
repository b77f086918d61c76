"""MLflow: a view of the evidence, which no computation reads."""
