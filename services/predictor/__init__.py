"""The predictor service: encoded images in, class probabilities out."""
