"""The ladder from prompting to training, with its stop lights."""
