"""Functions that recipes share: model, data and task from settings."""
