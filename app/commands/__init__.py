"""The commands of `signalbox`, one module for each subject; ``app.cli`` puts them together."""
