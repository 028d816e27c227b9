"""From volumes to the frames that a slice-wise network sees, and back."""
