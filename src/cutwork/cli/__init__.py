"""The `cutwork` command, one file per subcommand: parse, call, print."""
