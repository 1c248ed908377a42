"""The share room with a real engine."""
