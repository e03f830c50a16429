"""The answer: formats, engine and the two doors. Imports no Django model and runs no SQL."""
