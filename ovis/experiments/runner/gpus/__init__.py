"""The GPUs of this machine, and the choice of a free one."""
