"""`keelmark`, to whose processes something happens at a step; see `tests.stepping`."""

import sys

from server.cli import main
from tests.stepping import step_server

if __name__ == "__main__":
    step_server()
    sys.exit(main())
