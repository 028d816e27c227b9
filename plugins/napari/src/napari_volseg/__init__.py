"""volseg in napari: segment CT and MR volumes by clicking, and correct what comes out."""

import sys

# Mesa's software renderer and triton each bring an LLVM, and the process dies when triton is loaded after a window was
# drawn with the other. torch needs triton only to compile networks, which the plugin never does.
if "triton" not in sys.modules:
    sys.modules["triton"] = None  # type: ignore[assignment]
