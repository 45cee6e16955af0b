"""Where data comes from: dataset cards, tables, the hub."""
