"""MONAI bundles as volseg's model format: read as plain data, checked, written, found."""
