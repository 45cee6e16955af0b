"""Images with texts that are to be written about them: answers to questions, captions."""
