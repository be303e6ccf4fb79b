"""The recipes that are shipped, and what opens one: a path or a shipped name, a store, the table of
slots."""
