"""Data sources: dataset cards, tables and the Hugging Face Hub."""
