"""`python -m qflare`: the command line tool."""

from qflare.cli.main import main

if __name__ == "__main__":
    main()
