"""``python -m chemkl``: the command line, for where its script is not on the search path."""

from chemkl.cli import main

if __name__ == "__main__":
    main()
