"""The model: embedding spaces, search, attention, head."""
