"""The command ``tsa-sidecar``, and ``python -m sidecar``."""

import gc


def main() -> None:
    """Run the command line."""
    # Imports leave no garbage, and looking for it takes a tenth of the start.
    gc.disable()
    from sidecar.cli import main as command  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    command(prog_name="tsa-sidecar")


if __name__ == "__main__":
    main()
