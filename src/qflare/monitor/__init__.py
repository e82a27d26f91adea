"""What happened, signed: security events, their proofs, the check of the whole log, and figures for people."""
