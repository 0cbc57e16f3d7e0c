"""The recognition system: users, trainings and recognition in the browser. ``normjax app`` serves it."""
