"""Metrics and figures: functions from arrays."""
