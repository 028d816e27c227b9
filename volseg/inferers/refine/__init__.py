"""A second look at an object in 3D: from a draft mask and prompts to a better mask."""

from volseg.inferers.refine.lattice import Lattice, choose_lattice
from volseg.inferers.refine.settings import RefineSettings

__all__ = ["Lattice", "RefineSettings", "choose_lattice"]
