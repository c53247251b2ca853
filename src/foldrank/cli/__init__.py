"""The command line: parses, calls the verb of the same name, prints."""
