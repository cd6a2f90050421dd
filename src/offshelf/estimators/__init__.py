"""Classifiers: which there are, how one is built, and how a fitted one is saved.

Every class that can be inside a saved model is scikit-learn's or lies in this package, so that whoever opens a model
(the trainer, the predictor, an application) needs nothing of a service.
"""
