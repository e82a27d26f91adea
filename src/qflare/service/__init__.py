"""Where the wings are wired together: the key manager, the monitor, the HTTP service and the demo."""
