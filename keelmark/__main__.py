"""What the command `keelmark` starts, and `python -m keelmark`.

The command begins here and not in `server`, so that a foreign `server` is reported by name.
"""

from server.cli import main

if __name__ == "__main__":
    main()
