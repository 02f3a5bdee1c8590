"""What all panels share: controls, history, pointer, background work, code, static pictures."""
