"""The former path of ``python -m ovis train``."""
