"""Scripts that make committed files, such as the emulator's vocabulary. The package does not run with the suite."""
