"""The extension that setup.py builds from runtime_c: cffi's view of lepton.h and binding.h."""
from typing import Any

ffi: Any
lib: Any
