"""Training of networks: config, step, devices, checkpoints, and what is done with a finished run."""
