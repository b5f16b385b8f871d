"""What ends or interrupts a run from outside: signals, launchers, ranks that die, output nobody reads."""
