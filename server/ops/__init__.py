"""The ops plane: metrics and health now; administration and the console later."""
