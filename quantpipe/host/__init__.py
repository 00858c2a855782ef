"""This machine: processes, control groups, devices and memory, and children that leave nothing behind."""
