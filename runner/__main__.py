"""`python -m runner` is the same as `runner`."""

from runner.interruption import end_at_once_in_imports

end_at_once_in_imports()

from runner.cli import main  # noqa: E402 - it imports much, and Ctrl-C must find us prepared

if __name__ == "__main__":
    main()
