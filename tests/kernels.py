"""What needs this package's C++ kernels."""

import shutil

import pytest

needs_kernels = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
