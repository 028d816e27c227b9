"""Models and the contract they share."""
