"""One annotator's work on one image."""
