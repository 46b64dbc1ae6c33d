"""Model folders, installed as ``sedstream.models``: each holds manifest.toml, CARD.md and weights when small."""
