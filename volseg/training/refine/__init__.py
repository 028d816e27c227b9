"""Training of the 3D network that refines drafts."""
