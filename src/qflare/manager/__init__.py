"""The server's side of QFX-1 at work: gathers calls into batches, runs the protocol on them, keeps what lasts."""
