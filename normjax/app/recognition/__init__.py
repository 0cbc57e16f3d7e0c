"""Networks at work: a process that holds them, and how the app asks it."""
