"""The command `thinkload`: the commands of `server`, `loadgen` and `analysis` under one name, for an installation."""
