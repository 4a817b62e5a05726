"""Trainings as a user would write them."""
