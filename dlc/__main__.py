"""`python -m dlc`: the command line."""

from dlc.cli import main

if __name__ == "__main__":
    main(prog_name="dlc")
