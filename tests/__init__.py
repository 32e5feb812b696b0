"""Where there is no GPU, Triton's kernels run in Triton's interpreter, for the whole process.

Triton reads the variable when it is imported, which megafm.ops does through torch: later is too
late. Nothing but a kernel that is asked for by name is affected.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
