"""Video in, frame by frame; who is in it, followed from frame to frame; annotated video out."""
