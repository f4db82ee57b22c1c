"""A worker to which something happens at a step; see `tests.stepping`."""

import sys

from server.worker import main
from tests.stepping import step_worker

if __name__ == "__main__":
    step_worker()
    main(sys.argv[1:])
