"""The app under load and under faults."""
