"""Writing outs, lineage, claims, freshness, and publishing to MLflow."""
