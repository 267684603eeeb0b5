"""The command lines of subcommands, one module each, with `add(commands)`; light to import."""
