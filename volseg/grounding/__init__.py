"""Reports on images: each finding with its mask, boxes, key slice and presence."""
