"""``python -m sedstream``."""

from .cli import main

raise SystemExit(main())
