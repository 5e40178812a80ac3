"""The command line: one module per command. Only this folder imports typer and rich."""
