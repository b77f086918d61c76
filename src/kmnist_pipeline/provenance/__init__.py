"""Reading the evidence and its history: who made what, from what, and what would change."""
