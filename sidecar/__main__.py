"""The command ``tsa-sidecar``, and ``python -m sidecar``."""

import gc


def main() -> None:
    """Run the command line."""
    gc.disable()  # of what is imported nothing is ever garbage: a tenth of the start goes into
    from sidecar.cli import main as command  # noqa: PLC0415 - looking for it

    gc.freeze()
    gc.enable()
    command(prog_name="tsa-sidecar")


if __name__ == "__main__":
    main()
