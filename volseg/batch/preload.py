"""What a worker imports, for the process that workers are forked from; no threads and no device are started."""
# ruff: noqa: F401

import monai.data
import nibabel
import torch

import volseg.batch.runner
import volseg.sessions
