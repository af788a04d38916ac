"""Read and write files, images and videos: streaming decoders, upright frames, atomic writes."""
