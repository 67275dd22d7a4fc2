"""``python -m caseharden``: the command line, as torchrun starts it."""

from caseharden.cli import main

if __name__ == "__main__":
    main()
