"""Images or audio clips with captions."""
