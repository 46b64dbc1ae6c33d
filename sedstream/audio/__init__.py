"""Audio in: bytes, files and microphones become 16 kHz float32 samples."""
