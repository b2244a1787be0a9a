"""What the client and the emulator cost, and how true they are."""
