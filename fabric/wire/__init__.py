"""Wire format: frames, bodies of frames and typed bodies."""
