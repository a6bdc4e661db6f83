"""The program that runs on a host: Python 3.9 or newer, the standard library only."""
