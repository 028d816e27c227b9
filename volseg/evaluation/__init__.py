"""Simulated annotators, public protocols and scores: how good a model is, so that others can check it."""
