"""A trained model in use: text that it writes, what it says of texts, and their vectors."""
