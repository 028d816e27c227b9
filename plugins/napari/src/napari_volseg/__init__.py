"""volseg in napari: segment CT and MR volumes by clicking, and correct what comes out."""
