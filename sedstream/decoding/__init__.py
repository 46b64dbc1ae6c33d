"""From frames to segments: a fixed-lag decoder and the statistics of what it decides."""
