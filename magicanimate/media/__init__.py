"""Photos and clips in, videos out: everything that touches media files, and nothing of the networks."""
