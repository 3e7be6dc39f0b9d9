"""`python -m lavatube` is `lavatube`."""

from lavatube.cli import run

if __name__ == "__main__":
    run()
