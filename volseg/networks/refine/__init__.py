"""The network that looks at an object once more in 3D."""
