"""Files to images and label maps, and back."""
