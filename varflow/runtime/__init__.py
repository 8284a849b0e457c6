"""What every part needs of the machine: files, checkpoints, threads, devices, progress."""
