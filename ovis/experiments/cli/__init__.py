"""The commands: one ``main(argv) -> int`` each."""
