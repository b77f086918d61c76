"""Writing outs, lineage, claims, and publishing to MLflow."""
