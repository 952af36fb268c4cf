"""Training: recipes that turn dataset and synthetic versions into model versions, on Ray Train and DeepSpeed."""
