"""The command line tool `qflare`: text or JSON out, one clear line for an error, an exit code for each kind."""
