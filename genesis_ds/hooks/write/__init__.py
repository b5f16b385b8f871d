"""Hooks that write down what the others have measured."""
