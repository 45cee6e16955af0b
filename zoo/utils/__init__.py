"""What every package uses and nothing of the models: errors, files, console, random numbers by key."""
