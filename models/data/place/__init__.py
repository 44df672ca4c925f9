"""The watched place: a 2-D world with exact truth, for training, evaluation, demo cameras and tests."""
