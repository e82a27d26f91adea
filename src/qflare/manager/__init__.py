"""The server's side of QFX-1 at work: gathers calls into batches, runs the protocol on them, and keeps what must last."""
