"""Training of encoder and head on emotional utterances, with SpeechBrain."""
