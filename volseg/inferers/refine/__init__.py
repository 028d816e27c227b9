"""A second look at an object in 3D: from a draft mask and prompts to a better mask."""
