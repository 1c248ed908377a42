"""What is installed: KumoMTA's files on this machine, and the sidecar's place beside them.

In: a tree (``/``, or a directory that stands for it) and the settings.  Out:
findings for people, the lines that kumod's policy needs, and what
``tsa-sidecar init --write`` would create.  Nothing here changes anything but
:func:`sidecar.installation.actions.perform`.
"""
