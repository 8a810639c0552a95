"""The meta-learner: tables in, models and choices out; knows no file, socket, clock or daemon."""
