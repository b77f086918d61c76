"""Metrics, confidence routing and verdicts: functions of arrays and numbers."""
