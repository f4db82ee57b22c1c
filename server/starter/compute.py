"""pyarrow's functions on columns: made when it is imported, so that no type checker knows them."""

from typing import Any, Final

import pyarrow.compute

pc: Final[Any] = pyarrow.compute
