"""Who speaks when at all: voice activity decides speech, the emotion model never labels silence."""
