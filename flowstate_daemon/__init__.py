"""flowstate-daemon: sends FlowState's e-mail from a Bull 4 queue, and keeps its calendar."""

__version__ = "0.1.0"
