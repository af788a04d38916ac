"""The command line: the one-line command, composing the configuration, launch checks, and hints for mistyped names."""
