"""Compile once what training compiles on first use: `python -m app.training.warm`."""

from app.training.extensions import compile_extensions, quieten


def main() -> None:
    """Compile, and say where the result lies."""
    quieten()
    print(f"DeepSpeed's collectives are compiled in {compile_extensions()}")


if __name__ == "__main__":
    main()
