"""The command line: composing the configuration, launch checks, and hints for mistyped names."""
