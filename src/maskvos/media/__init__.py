"""Files, images and movies, in and out: streamed, decoded upright, written atomically."""
