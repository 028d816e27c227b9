"""What our readers note in a layer's metadata."""

PATH_KEY = "volseg_path"
"""The file or folder the layer was read from."""

FILE_AXCODES_KEY = "volseg_file_axcodes"
"""The order of the voxels in that file, such as LPS; label maps are written in the same order."""

LABELS_KEY = "volseg_labels"
"""What a label map's values stand for."""
