"""``python -m prune_tool``."""

from prune_tool.cli.app import main

if __name__ == "__main__":
    main()
