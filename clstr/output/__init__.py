"""What a person or a pipe gets to see: the jobs' output, clstr's messages, the status line.

``console`` owns stdout, stderr and the terminal; nothing else in clstr writes to them. ``writer`` is one open
file with its thread and its cursor, ``lines`` cuts a job's bytes at line ends, ``status`` draws the progress
line, ``messages`` finds the words.
"""
