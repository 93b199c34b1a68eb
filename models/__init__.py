"""Models to train and to copy from: `python -m models.mlp`, `python -m models.cnn`."""
