"""One module per subcommand: ``add(parser)`` declares its options, ``run(options)`` does it."""
