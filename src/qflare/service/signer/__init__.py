"""The signer of the log's heads as a process of its own: holds the log's key, and signs what follows, alone."""
