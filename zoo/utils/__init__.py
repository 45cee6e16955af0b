"""Utilities without models: errors, files, console output, keyed random numbers, options."""
