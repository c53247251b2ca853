"""One file a command: options, one call of the verb of the same name, printing."""
