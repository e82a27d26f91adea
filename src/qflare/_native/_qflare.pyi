# The extension is generated from csrc/qflare.h; what the border makes of it is typed there.
from typing import Any

ffi: Any
lib: Any
