"""Training of a frame head on emotional utterances, with SpeechBrain."""
