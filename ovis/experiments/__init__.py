"""Trainings and their reports: settings, data sets, the runner, the training loop, reporting, commands."""
