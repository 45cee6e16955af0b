"""What a plan of several processes takes before it is run: memory, exchanged bytes and time of a training step."""
