"""From a command line to a trained model."""
