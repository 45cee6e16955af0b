"""Training a model on several devices."""
