"""The demo: a fictional cooperative's handbook, its users, and the story that shows the whole loop."""
