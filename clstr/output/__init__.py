"""What a person or a pipe gets to see: the jobs' output, clstr's messages, the status line.

``console`` owns stdout, stderr and the terminal; nothing else in clstr writes to them. ``writer`` is one open
file with its thread and its cursor, ``status`` draws the progress line, ``messages`` finds the words, ``paint``
their colours. How the jobs' output looks is a mode (``modes``): ``merge``, ``group``, ``fold``; ``lines`` cuts a
job's bytes at line ends, ``spool`` keeps them, ``files`` are those that a submit file names.
"""
