"""Services of the machine: files, checkpoints, signals, threads, devices, progress."""
